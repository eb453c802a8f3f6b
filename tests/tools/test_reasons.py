"""The table in docs/reasons.md is made from the source, and no two reasons share a code."""

import re
from pathlib import Path

import pytest

from tools import reasons

HOME = Path(__file__).parents[2]
IMPORT = "from lightning_noise.core.reasons import Reason, Severity\n"


def package(folder, *lines):
    """A package of one module."""
    (folder / "module.py").write_text(IMPORT + "\n".join(lines))
    return folder


def test_the_page_is_what_the_tool_writes():
    page = (HOME / "docs" / "reasons.md").read_text()
    assert page == reasons.page(), "run python tools/reasons.py"


def test_the_table_holds_reasons_of_every_kind():
    found = {row.code: row for row in reasons.rows()}
    assert found["not_finite"].severity == "skip" and "overflow" in found["not_finite"].meaning
    assert found["two_passes"].severity == "refuse"
    assert found["gradient_in_parts"].meaning.startswith("the gradient of … arrived in several")
    assert found["low_coverage"].meaning.startswith("the examples probe covers less than")
    assert "register_rule" in found["low_coverage"].fix
    assert all(re.fullmatch("[a-z]+(_[a-z0-9]+)*", code) for code in found)


def test_a_row_has_the_words_of_its_reason(tmp_path):
    lines = (
        'MORE = "Use more"',
        'def few(n): return Reason("few", Severity.SKIP, f"only {n} of two", f"{MORE}.")',
    )
    (row,) = reasons.rows(package(tmp_path, *lines))
    assert row == ("few", "skip", "only … of two", "Use more.")
    assert reasons.table([row]).splitlines()[-1] == "| `few` | `skip` | only … of two | Use more. |"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['A = Reason("a", Severity.SKIP, "one")', 'B = Reason("a", Severity.SKIP, "two")'], "'a'"),
        (['A = Reason(CODE, Severity.SKIP, "one")'], "literal instead of 'CODE'"),
        (['A = Reason("a", Severity.SKIP, str(error))'], "describe 'a'"),
    ],
)
def test_what_the_table_cannot_show_is_an_error(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        reasons.rows(package(tmp_path, *lines))


def test_a_copied_code_is_no_other_reason(tmp_path):
    lines = ['A = Reason("a", Severity.SKIP, "one")', "B = Reason(A.code, Severity.REFUSE, text)"]
    assert [row.code for row in reasons.rows(package(tmp_path, *lines))] == ["a"]


def test_every_description_without_words_is_needed():
    shown = {row.code: (row.meaning, row.fix) for row in reasons.rows()}
    for code, words in reasons.WITHOUT_WORDS.items():
        assert shown[code] == words
