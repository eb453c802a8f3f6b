"""How dense the package's code is: long lines, conditionals, comprehensions, syntax nodes.

    python tools/density.py
    python tools/density.py path/to/another/checkout/lightning_noise

One row per folder (subfolders count for themselves) and one for all. It judges nothing: the figures
are for comparing one state of the code with another.

- long: lines over 100 columns, and their share of the lines that are not blank;
- code lines: lines on which a statement or an expression begins, without docstrings;
- nodes/line: statements and expressions of the syntax tree per code line;
- conditionals: conditional expressions (``a if c else b``) per 100 code lines;
- comprehensions: those of lists, sets and dicts and generator expressions per 100 code lines;
- chained: conditional expressions that stand inside another one.
"""

import argparse
import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
HEADER = (
    "folder",
    "files",
    "code lines",
    "long",
    "long %",
    "nodes/line",
    "conditionals/100",
    "comprehensions/100",
    "chained",
)


class Counts(NamedTuple):
    """Of one file or of several."""

    files: int
    filled_lines: int
    long_lines: int
    code_lines: int
    nodes: int
    conditionals: int
    comprehensions: int
    chained: int


def is_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def count_chained(conditional: ast.IfExp) -> int:
    """Conditional expressions that are a condition or a branch of this one."""
    parts = (conditional.test, conditional.body, conditional.orelse)
    return sum(isinstance(part, ast.IfExp) for part in parts)


def count(source: str) -> Counts:
    """The counts of one file."""
    tree = list(ast.walk(ast.parse(source)))
    nodes = [node for node in tree if isinstance(node, ast.stmt | ast.expr)]
    conditionals = [node for node in nodes if isinstance(node, ast.IfExp)]
    documentation = {node.lineno for node in nodes if is_docstring(node)}
    lines = source.splitlines()
    return Counts(
        files=1,
        filled_lines=sum(bool(line.strip()) for line in lines),
        long_lines=sum(len(line) > WIDTH for line in lines),
        code_lines=len({node.lineno for node in nodes} - documentation),
        nodes=len(nodes),
        conditionals=len(conditionals),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        chained=sum(map(count_chained, conditionals)),
    )


def add(parts: Iterable[Counts]) -> Counts:
    return Counts(*map(sum, zip(*parts, strict=True)))


def count_folders(package: Path) -> dict[str, Counts]:
    """By folder that holds Python files, in alphabetical order."""
    by_folder: dict[str, list[Counts]] = {}
    for file in sorted(package.rglob("*.py")):
        folder = file.parent.relative_to(package.parent).as_posix()
        by_folder.setdefault(folder, []).append(count(file.read_text(encoding="utf-8")))
    return {folder: add(files) for folder, files in sorted(by_folder.items())}


def row(name: str, found: Counts) -> tuple[str, ...]:
    per_line = 1 / max(found.code_lines, 1)
    return (
        name,
        str(found.files),
        str(found.code_lines),
        str(found.long_lines),
        f"{100 * found.long_lines / max(found.filled_lines, 1):.1f}",
        f"{found.nodes * per_line:.1f}",
        f"{100 * found.conditionals * per_line:.1f}",
        f"{100 * found.comprehensions * per_line:.1f}",
        str(found.chained),
    )


def table(folders: Mapping[str, Counts]) -> str:
    rows = [HEADER, *(row(*item) for item in folders.items())]
    rows.append(row("all", add(folders.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(line(one, widths) for one in rows)


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The name to the left, the figures to the right."""
    figures = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *figures])


def main() -> None:
    here = Path(__file__).parent.parent / "lightning_noise"
    parser = argparse.ArgumentParser(description="Counts how dense the code of a package is.")
    parser.add_argument("package", nargs="?", type=Path, default=here, help="a package's folder")
    folders = count_folders(parser.parse_args().package)
    if not folders:
        parser.error("package must be a folder with Python files in it")
    print(table(folders))


if __name__ == "__main__":
    main()
