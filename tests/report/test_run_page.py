"""The page about runs, as the command ``lightning-noise report`` writes it."""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from lightning_noise.__main__ import main
from lightning_noise.report.layer_figure import draw_layers, layer_map
from testing.launch import ROOT
from testing.run_logs import unresolved, values, write_run

VOID = {"meta", "img", "source", "br"}
ODD = 'b<script>&"x"'
LAYERS = {"net.0": 40.0, "net.<2>": 640.0}


class Page(HTMLParser):
    """The tags of a page with their attributes, its texts, and the cells of its tables by row."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.open, self.texts, self.rows = [], [], [], []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def row(self, first):
        """The rows that begin with this cell."""
        return [row[1:] for row in self.rows if row[0] == first]


def report(tmp_path, *folders, options=()):
    out = tmp_path / "out" / "report.html"
    assert main(["report", *map(str, folders), "-o", str(out), *options]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("logs")
    rows = {9: unresolved(), 19: values(layers=LAYERS), 29: values(layers=LAYERS)}
    write_run(folder / "a", rows, verdict="Your batch size …\n  warning: 1 < 2 ranks")
    write_run(folder / ODD, {9: values(), 19: unresolved(60.0, size=128.0)}, kind="CSV")
    return folder


@pytest.fixture(scope="module")
def markup(logs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return report(folder, logs / "a", logs / ODD, options=["--price", "2.5"])


@pytest.fixture(scope="module")
def page(markup):
    return Page(markup)


# ---- the page --------------------------------------------------------------------------------


def test_the_page_is_one_file_without_scripts(page):
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    images = [one["src"] for one in page.all("img")]
    sources = [one["srcset"] for one in page.all("source")]
    assert len(images) == len(sources) == 5  # two runs with two figures, and one with layers
    assert all(one.startswith("data:image/svg+xml;base64,") for one in [*images, *sources])
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in re.sub(r"data:[^\"]*", "", str(page.tags))


def test_the_page_can_be_read_without_seeing_it(page):
    assert page.all("html") == [{"lang": "en"}]
    assert all(len(one["alt"]) > 60 for one in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {one["scope"] for one in page.all("th")} == {"col", "row"}
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_numbers_of_the_page_are_those_of_the_log(page, logs):
    advice = (
        "Your batch size of 32 is about 5 times below the noise scale, 160 [108, 250] examples."
    )
    assert advice in page.texts
    steps, examples, sgd, adam = page.row("32 (in use)")[0]
    assert (steps, examples) == ("6 [4.38, 8.81]", "1.2 [1.13, 1.3]")
    assert (sgd, adam) == ("1", "1")
    assert page.row("128")[0][0] == "2.25 [1.84, 2.95]"
    assert page.row("net.0") == [["40", "40", "29"]]
    assert "3, from step 9 to step 29" in page.texts
    assert "67 % (2 of 3)" in page.texts


def test_two_runs_are_compared_in_a_table(page, logs):
    first, second = page.row(str(logs / "a"))[0], page.row(str(logs / ODD))[0]
    assert first[:5] == ["32", "0.125", "160 [108, 250]", "too small", "128"]
    assert first[5:10] == ["6 [4.38, 8.81]", "1.2 [1.13, 1.3]", "3", "67 %", "20"]
    assert second[:5] == ["128", "0.125", "not resolved, at least 60", "undetermined", "none"]
    assert second[5:] == ["at least 1.47", "at most 3.13", "2", "50 %", "10", "unknown"]


def test_an_unresolved_end_is_warned_of_and_has_no_upper_end(page):
    assert any("not resolved from zero at the end" in text for text in page.texts)
    assert "no upper end" in page.texts
    assert page.row("128 (in use)") == [["at least 1.47", "at most 3.13"]]


def test_what_comes_from_a_log_is_escaped(markup, page):
    assert "<script>" not in markup
    assert "b&lt;script&gt;&amp;&quot;x&quot;" in markup
    assert page.row("net.<2>") == [["640", "640", "29"]]
    assert "1 < 2 ranks" in page.texts


def test_layers_are_shown_for_the_run_that_logged_them(page):
    assert page.texts.count("Layers over training") == 1


def test_a_price_needs_times(page):
    assert page.texts.count("Cost if a step takes as long at any size") == 1
    wanted = "There are no hours and no cost: the log holds fewer than two times"
    assert sum(text.startswith(wanted) for text in page.texts) == 1


def test_cost_is_hours_times_the_price(markup, logs, tmp_path):
    times, costs = (row for row in Page(markup).row("128") if len(row) == 2 and "[" in row[0])
    for seconds, cost in zip(times, costs, strict=True):
        shown = 2.5 / 3600 * float(seconds.split()[0])
        assert float(cost.split()[0]) == pytest.approx(shown, rel=0.01)  # three digits are shown


def test_the_same_log_gives_the_same_page(logs, tmp_path):
    assert report(tmp_path, logs / ODD) == report(tmp_path, logs / ODD)


def test_a_run_whose_components_are_never_positive_has_no_picture_of_them(tmp_path):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run", {0: unresolved(grad_sq=-1.0), 1: unresolved(grad_sq=-1.0)})
    found = report(tmp_path, run)
    assert "At no logged step both are positive" in found
    assert len(Page(found).all("img")) == 1


def test_the_map_of_layers_is_drawn_from_their_values():
    pytest.importorskip("matplotlib")
    steps = list(range(0, 200))
    found = layer_map({"a": dict.fromkeys(steps, 8.0), "b": {0: 1.0, 1: 4.0}}, steps)
    assert len(found.edges) == 51  # four steps in each of fifty columns
    assert found.cells[0] == pytest.approx([8.0] * 50)
    assert found.cells[1] == [2.0, *[None] * 49]
    axes = draw_layers(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.collections[0].get_array().mask.sum() == 49


# ---- errors ----------------------------------------------------------------------------------


def test_what_is_no_log_is_refused_with_a_fix(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "other", {0: {"train_loss": 1.0}})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "metrics.csv").write_text("step,noise_scale/trace\n1,fast\n")
    cases = {
        "nowhere": "does not exist: check the path",
        "empty": "has neither: give the folder of a run, such as lightning_logs/version_0",
        "other": "have no such scalar: train with the callback GradientNoiseScale",
        "bad": "line 2: column noise_scale/trace must hold a number, got 'fast'",
        "bad/metrics.csv": f"got the file {tmp_path / 'bad' / 'metrics.csv'}: give",
    }
    for name, words in cases.items():
        assert main(["report", str(tmp_path / name), "-o", str(tmp_path / "x.html")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("lightning-noise: "), name
        assert words in said
    assert not (tmp_path / "x.html").exists()


def test_an_output_that_is_a_folder_is_refused(logs, tmp_path, capsys):
    assert main(["report", str(logs / "a"), "-o", str(tmp_path)]) == 2
    fix = f"give {tmp_path / 'report.html'} instead"
    rule = f"--out must name a file, got the folder {tmp_path}: {fix}.\n"
    assert capsys.readouterr().err == f"lightning-noise: {rule}"


@pytest.mark.parametrize("price", ["-1", "nan", "cheap"])
def test_a_price_that_is_no_price_is_refused(logs, price, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(logs / "a"), f"--price={price}"])
    rule = f"argument --price: must be a finite number >= 0, got '{price}': give what an hour"
    assert rule in capsys.readouterr().err


def test_without_matplotlib_the_error_says_what_to_install(logs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["report", str(logs / "a"), "-o", str(tmp_path / "x.html")]) == 2
    assert "pip install -e '.[plots]'" in capsys.readouterr().err


# ---- the command -----------------------------------------------------------------------------

COMMAND = re.compile(r"^lightning-noise (report .*)$", re.MULTILINE)


@pytest.mark.parametrize("name", ["docs/first_steps.md", "docs/report.md"])
def test_the_commands_of_the_pages_run(name, logs, tmp_path, monkeypatch):
    for version in ("version_0", "version_1"):
        target = tmp_path / "lightning_logs" / version
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(logs / ODD)
    monkeypatch.chdir(tmp_path)
    commands = COMMAND.findall((ROOT / name).read_text())
    assert commands
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert "Is the batch size right?" in (tmp_path / "report.html").read_text()


HEAVY = """
import sys
from lightning_noise.__main__ import main
status = main(sys.argv[1:])
heavy = {"torch", "lightning", "pytorch_lightning", "torchmetrics", "tensorflow", "optuna"}
sys.exit(f"{status}, imported: {sorted(heavy & set(sys.modules))}")
"""


@pytest.mark.slow
def test_the_command_imports_no_framework(logs, tmp_path):
    call = [sys.executable, "-W", "error", "-c", HEAVY, "report", str(logs), "-o", "page.html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        call, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == "0, imported: []\n"
    assert done.stdout == "page.html\n"
