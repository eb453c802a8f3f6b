"""The page about runs whose logs name unit and optimizer, and whose loggers have a prefix."""

import re

import pytest

from lightning_noise.report.errors import ReportError
from lightning_noise.report.page.answer import answer_of
from lightning_noise.report.page.find_logs import find_courses
from lightning_noise.report.page.page import page_of
from lightning_noise.report.page.style import STYLE
from lightning_noise.say.log_keys import without_prefix
from lightning_noise.say.run_facts import FILE, RunFacts
from testing.run_logs import LOGGERS, values, write_run

ROWS = {9: values(), 19: values(), 29: values()}
TOKENS = {"": RunFacts("AdamW", 0.5, "tokens")}
WITHHELD = "Whether your batch size of 32 is right cannot be determined: …\n  It is too small."


def columns(page):
    """The heads of every table of a page."""
    heads = re.findall(r"<thead>(.*?)</thead>", page)
    return [re.findall(r'<th scope="col">(.*?)</th>', head) for head in heads]


# ---- unit and optimizer ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGGERS)
def test_unit_and_optimizer_are_those_of_the_run(tmp_path, kind):
    (found,) = find_courses([write_run(tmp_path / "run", ROWS, kind=kind, facts=TOKENS)])
    first, second, _ = answer_of(found).lines
    assert first.endswith("below the noise scale, 160 [108, 250] tokens.")
    # 32 → 128 gains 2.67; for Adam the learning rate follows its root
    assert second.startswith("Raising it to 128 with the learning rate times 1.63 would need about")
    assert second.endswith("more tokens.")


def test_the_page_counts_what_the_run_counted(tmp_path):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run", ROWS, facts=TOKENS)
    page = page_of(find_courses([run]), price=2.5)
    assert "examples" not in page
    steps, times, costs = columns(page)
    assert steps == [
        "Batch size, tokens",
        "Steps, times the minimum",
        "Tokens, times the minimum",
        "Learning rate times, AdamW",
    ]
    # two columns of numbers fit on a phone, four did not
    assert [len(times), len(costs)] == [3, 3]
    assert times[1] == "Seconds if a step takes as long at any size"
    assert costs[1] == "Cost if a step takes as long at any size"


def test_without_facts_batch_sizes_are_called_examples_and_the_page_says_why(tmp_path):
    pytest.importorskip("matplotlib")
    page = page_of(find_courses([write_run(tmp_path / "run", ROWS)]))
    assert columns(page)[0][3:] == ["Learning rate times, SGD", "Learning rate times, Adam"]
    assert "examples, unless it had a batch_size_fn" in page


def test_a_comparison_of_different_units_names_none(tmp_path):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "a", ROWS, facts=TOKENS)
    write_run(tmp_path / "b", ROWS)
    head = columns(page_of(find_courses([tmp_path])))[0]
    assert head[1:4] == [
        "Batch size, units of the run",
        "Learning rate at the end",
        "Noise scale, units of the run",
    ]


def test_a_verdict_beside_the_log_withholds_advice_as_a_logged_one(tmp_path):
    """A metrics.csv holds no texts, and the size of the data set is known to the verdict alone."""
    facts = {"": RunFacts("SGD", 1.0, "examples", WITHHELD, 29)}
    (found,) = find_courses([write_run(tmp_path / "run", ROWS, kind="CSV", facts=facts)])
    assert answer_of(found).lines == WITHHELD.replace("  ", "").splitlines()


@pytest.mark.parametrize(("step", "shown"), [(28, "logged"), (29, "beside")])
def test_of_two_verdicts_the_later_one_counts(tmp_path, step, shown):
    facts = {"": RunFacts("SGD", 1.0, "examples", "beside", step)}
    (found,) = find_courses([write_run(tmp_path / "run", ROWS, verdict="logged", facts=facts)])
    assert found.verdict.text == shown


@pytest.mark.parametrize("text", ["{", "[]", '{"": {"unit": "tokens"}}', '{"": {"color": 1}}'])
def test_facts_of_another_form_are_refused_with_a_fix(tmp_path, text):
    write_run(tmp_path / "run", ROWS)
    (tmp_path / "run" / FILE).write_text(text)
    with pytest.raises(ReportError, match="is not as GradientNoiseScale writes it: delete it"):
        find_courses([tmp_path / "run"])


# ---- prefixes of loggers ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGGERS)
@pytest.mark.parametrize("prefix", ["fit", "a/b", "my-model"])
def test_a_prefix_of_the_logger_is_no_part_of_a_key(tmp_path, kind, prefix):
    folder = write_run(tmp_path / "run", ROWS, kind=kind, prefix=prefix)
    (plain,) = find_courses([write_run(tmp_path / "plain", ROWS, kind=kind)])
    (found,) = find_courses([folder])
    assert found.title == str(folder)
    assert found.moments == plain.moments
    assert found.rates == plain.rates


def test_loggers_of_two_prefixes_in_one_folder_are_two_runs(tmp_path):
    for prefix, b in (("first", 64.0), ("second", 256.0)):
        rows = {step: values(b, b / 2, 2 * b) for step in (9, 19)}
        write_run(tmp_path / "run", rows, prefix=prefix, verdict="whose is it?")
    first, second = find_courses([tmp_path / "run"])
    assert [first.title, second.title] == [f"{tmp_path / 'run'}, {name}" for name in LOGGED_AS]
    assert [first.moments[0].b, second.moments[0].b] == [64.0, 256.0]
    assert first.verdict is None


LOGGED_AS = ("first", "second")


def test_a_layer_whose_name_looks_like_a_prefix_is_a_layer():
    name = "noise_scale/layer/a-noise_scale/b"
    assert without_prefix(name) == ("", name)
    assert without_prefix("my_noise_scale/trace") is None


# ---- colors ----------------------------------------------------------------------------------

LEAST_CONTRAST = 4.5  # of text, by WCAG 2.2, 1.4.3


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "accent", "warn"])
@pytest.mark.parametrize("behind", ["page", "card", "marked"])
def test_text_can_be_read_on_what_is_behind_it(theme, text, behind):
    ink = re.findall(rf"--{text}: (#\w+)", STYLE)[theme]
    ground = re.findall(rf"--{behind}: (#\w+)", STYLE)[theme]
    assert contrast(ink, ground) >= LEAST_CONTRAST


def test_black_on_white_has_the_largest_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
