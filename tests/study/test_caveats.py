"""Every warning of a study is of a known kind, which the table in docs/studies.md lists."""

import ast
from pathlib import Path

import pytest

import lightning_noise
from lightning_noise.core.critical import NoFitError
from lightning_noise.core.critical_advice import (
    Straight,
    no_lower_bound,
    no_upper_bound,
    poor_fit,
    refuse_few,
    refuse_no_bend,
)
from lightning_noise.report.fit_text import NO_FIT
from lightning_noise.study import StudyResult, caveats
from lightning_noise.study.storage import UNKNOWN_CODE
from testing.launch import ROOT
from testing.synthetic_studies import study

HEAD = "| warning | what to do | what it costs |\n|---|---|---|\n"
STRAIGHTS = [Straight(flat, steep) for flat in (False, True) for steep in (False, True)]


def test_the_table_in_the_documentation_is_that_of_the_code():
    page = (ROOT / "docs" / "studies.md").read_text()
    lines = []
    for caveat in caveats.ALL:
        lines.append(f"| {' | '.join(caveat.row)} |\n")
    assert HEAD + "".join(lines) in page


def test_every_kind_is_in_the_table():
    tree = ast.parse(Path(caveats.__file__).read_text())
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [node.func.id for node in made if isinstance(node.func, ast.Name)]
    assert names.count("Caveat") == len(caveats.ALL) == len(set(caveats.ALL))


def kinds(text):
    return [caveat for caveat in caveats.ALL if caveat.matches(text)]


@pytest.mark.parametrize("straight", STRAIGHTS)
def test_the_texts_of_the_fit_are_of_these_kinds(straight):
    sizes = [8, 16, 32, 64]
    assert kinds(no_lower_bound(sizes, 20.0, straight).text) == [caveats.NO_LOWER_BOUND]
    assert kinds(no_upper_bound(sizes, 20.0, straight).text) == [caveats.NO_UPPER_BOUND]
    assert kinds(poor_fit(sizes, [0, 0, 0.2, 0], 0.2).text) == [caveats.POOR_FIT]


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: refuse_few([8]),
        lambda: refuse_few([]),
        lambda: refuse_no_bend([8, 16, 32, 64], 20.0, Straight(True, True)),
        lambda: refuse_no_bend([8, 16, 32, 64], 1e5, Straight(False, True)),
        lambda: refuse_no_bend([8, 16, 32, 64], 1e-3, Straight(True, False)),
    ],
)
def test_every_refusal_of_the_fit_is_of_one_kind_and_names_its_sizes(refuse):
    with pytest.raises(NoFitError) as refused:
        refuse()
    assert kinds(f"{NO_FIT}: {refused.value}") == [caveats.NO_FIT]
    assert refused.value.sizes
    for size in refused.value.sizes:
        assert f"{size:g}" in str(refused.value)


def test_the_texts_of_trial_and_storage_are_of_these_kinds():
    assert kinds(UNKNOWN_CODE) == [caveats.UNKNOWN_CODE]
    folder = Path(lightning_noise.__file__).parent / "study"
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    assert 'f"the noise scale was not measured: {' in code
    assert 'f"runs from before {what} are kept, as accepted"' in code


def warned():
    """A table that gives rise to every warning about runs."""
    rows = [{**row, "pruned": False, "budget_steps": 900} for row in study(b_crit=20_000)]
    for row in rows:
        size = row["global_size"]
        if size == 16 or (size in (32, 64) and row["phase"] == "rerun" and row["seed"] == 1000):
            row.update(status="incomplete", steps=None, best=False)
        if size == 64 and row["phase"] == "rerun":
            row.update(status="diverged", steps=None)
    return [row for row in rows if row["global_size"] != 16 or row["phase"] == "search"]


REPORTED = (
    "the noise scale was not measured: no layer is supported. Use probe='micro_batches'.",
    "runs from before a change of make_module are kept, as accepted",
    UNKNOWN_CODE,
)


def test_every_warning_is_of_one_kind_and_ends_with_its_cost():
    warnings = StudyResult.from_table(warned(), REPORTED).warnings
    found = []
    for warning in warnings:
        (kind,) = kinds(warning.removeprefix("error 3 %: "))
        found.append(kind)
        assert ": about " in warning and warning.endswith(" runs")
    expected = {
        caveats.NOT_REACHED,
        caveats.LEFT_OUT,
        caveats.MEDIAN,
        caveats.AT_BUDGET,
        caveats.BOUNDARY,
        caveats.NO_FIT,
        *caveats.OF_RUNS,
    }
    assert set(found) == expected


def test_what_the_runs_reported_has_an_action_with_the_cost_of_all_runs():
    measured, accepted, unknown = StudyResult.from_table(warned(), REPORTED).warnings[:3]
    runs = "about 227 runs"
    fix = "With another module or noise_scale=..., run under another name"
    assert measured == f"{REPORTED[0]} {fix}: {runs}"
    assert accepted == (
        f"{REPORTED[1]}. Run under another name if the change can change a result: {runs}"
    )
    assert unknown == f"{REPORTED[2]}. Run under another name if they may have: {runs}"


def test_what_is_joined_or_read_again_is_priced_once():
    result = StudyResult.from_table(warned(), REPORTED)
    again = StudyResult.from_table(result.timed_table(), result.run_warnings)
    assert again.warnings == result.warnings
