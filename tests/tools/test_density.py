"""What the script counts in a source whose counts are known, and the table that it prints."""

import sys

import pytest

from tools import density

SOURCE = '''"""Docstring
of two lines."""

# a comment
VALUES = [1, 2]


def pick(x):
    """Another docstring."""
    first = 1 if x else 2 if VALUES else 3
    long = {n: 0 for n in "abc"}, {n for n in "abc"}, list(n for n in "abc"), "DASHES"
    return first, [
        2
        for _ in VALUES
    ]
'''.replace("DASHES", "-" * 50)
COUNTS = density.Counts(
    files=1,
    filled_lines=12,
    long_lines=1,
    code_lines=7,  # VALUES, def, first, long, return, 2, for
    nodes=2 + 5 + 1 + 2 + 9 + 19 + 7,  # docstring, VALUES, def, docstring, first, long, return
    conditionals=2,
    comprehensions=4,
    chained=1,
)
TABLE = """\
folder      files  code lines  long  long %  nodes/line  conditionals/100  comprehensions/100  chained
package         1           0     0     0.0         0.0               0.0                 0.0        0
package/in      2          14     2     8.3         6.4              28.6                57.1        2
all             3          14     2     8.3         6.4              28.6                57.1        2
"""


def test_counts_of_a_known_source():
    assert density.count(SOURCE) == COUNTS


@pytest.mark.parametrize(
    ("expression", "chained"),
    [
        ("a if b else c", 0),
        ("a if b else c if d else e", 1),
        ("a if b else c if d else e if f else g", 2),
        ("(a if b else c) if d else e", 1),
        ("a if (b if c else d) else e", 1),
        ("[a if b else c, a if b else c]", 0),
    ],
)
def test_chained_conditional_expressions(expression, chained):
    assert density.count(expression).chained == chained


def test_the_table_has_a_row_per_folder_and_a_total(tmp_path, monkeypatch, capsys):
    inside = tmp_path / "package" / "in"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").touch()
    for name in ("a.py", "b.py"):
        (inside / name).write_text(SOURCE)
    monkeypatch.setattr(sys, "argv", ["density.py", str(inside.parent)])
    density.main()
    assert capsys.readouterr().out == TABLE


def test_a_folder_without_python_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["density.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        density.main()
    assert "package must be a folder with Python files in it" in capsys.readouterr().err
