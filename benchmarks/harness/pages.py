"""Tables in pages, filled from the files of rows.

A page says ``<!-- table: NAME -->`` and ``<!-- end -->``, each on a line; what stands between is
written by ``python -m benchmarks page`` and by nobody else.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from benchmarks.harness import study_tables
from benchmarks.harness.machine import MACHINES, PATH
from benchmarks.harness.rows import File, committed
from benchmarks.harness.spec import HOME, Benchmark
from benchmarks.harness.tables import markdown

BEGIN = "<!-- table: "
NOT_MEASURED = "Not measured yet."
BLOCK = re.compile(r"^<!-- table: (?P<name>[^\n]+?) -->\n.*?^<!-- end -->$", re.M | re.S)


def pages() -> list[Path]:
    """Those that have a table of a benchmark."""
    known = [HOME / "README.md", *HOME.glob("benchmarks/*.md"), *HOME.glob("docs/*.md")]
    return sorted(page for page in known if BEGIN in page.read_text(encoding="utf-8"))


def names_in(text: str) -> list[str]:
    """The tables of a page."""
    return [block["name"] for block in BLOCK.finditer(text)]


def fill(text: str, tables: Mapping[str, str]) -> str:
    """A page with its tables.

    Raises:
        ValueError: a table has no end, or no benchmark has it.
    """
    found = names_in(text)
    if text.count(BEGIN) != len(found):
        raise ValueError(f"a table of this page has no line '<!-- end -->'; whole are {found}.")
    unknown = sorted(set(found) - set(tables))
    if unknown:
        raise ValueError(f"no benchmark has the table {unknown[0]!r}; known: {sorted(tables)}.")

    def block(match: re.Match[str]) -> str:
        return f"{BEGIN}{match['name']} -->\n\n{tables[match['name']]}\n\n<!-- end -->"

    return BLOCK.sub(block, text)


def tables_of(benchmarks: Iterable[Benchmark]) -> Iterator[tuple[str, str]]:
    """All tables by name, and the machine of each benchmark of which it is known."""
    benchmarks = list(benchmarks)
    for one in benchmarks:
        rows = committed(one)
        for name, table in one.tables.items():
            yield name, table(rows) if rows else NOT_MEASURED
        yield f"machine of {one.name}", NOT_MEASURED
    for machine in File(MACHINES, PATH).rows:
        yield f"machine of {machine.benchmark}", f"{machine}."
    yield "index", index(benchmarks)
    yield from study_tables.tables()
    from benchmarks import aims  # it knows the benchmarks, and they know the harness

    yield "aims", aims.table()


def write(benchmarks: Iterable[Benchmark]) -> list[Path]:
    """Fills all pages, and returns those that have changed."""
    tables, changed = dict(tables_of(benchmarks)), []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = fill(before, tables)
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


# ---- the index ----------------------------------------------------------------------------------


@cache
def tables_on_pages() -> dict[str, list[Path]]:
    """The pages that show a table, by its name."""
    shown: dict[str, list[Path]] = {}
    for page in pages():
        for name in names_in(page.read_text(encoding="utf-8")):
            shown.setdefault(name, []).append(page)
    return shown


def shown_in(benchmark: Benchmark) -> list[Path]:
    """The pages that have one of its tables."""
    places = [page for name in benchmark.tables for page in tables_on_pages().get(name, [])]
    return sorted(set(places))


def room_of(benchmark: Benchmark) -> str:
    """The room that its module lies in."""
    return benchmark.measure.__module__.split(".")[1]


def index(benchmarks: Iterable[Benchmark]) -> str:
    """Question, command, minutes, needs, and where rows and tables are, for ``benchmarks/``."""
    lines = []
    for one in benchmarks:
        pages_linked = [_link(page) for page in shown_in(one)]
        written = f"[{one.path.name}](results/{one.path.name})" if one.path.exists() else "no rows"
        lines.append(
            (
                room_of(one),
                one.question,
                f"`python -m benchmarks run {one.name}`",
                f"{one.minutes:g}",
                one.needs,
                written,
                ", ".join(pages_linked),
            )
        )
    head = ("room", "question", "command", "minutes", "needs", "writes", "shown in")
    return markdown(head, lines)


def _link(page: Path) -> str:
    if page.parent == HOME / "benchmarks":
        return f"[{page.name}]({page.name})"
    return f"[{page.relative_to(HOME)}](../{page.relative_to(HOME)})"


def as_text(benchmarks: Iterable[Benchmark]) -> str:
    """The index for a terminal."""
    lines = []
    for one in benchmarks:
        shown = ", ".join(str(page.relative_to(HOME)) for page in shown_in(one)) or "no page"
        needs = f"; needs {one.needs}" if one.needs else ""
        lines.append(f"{room_of(one)}/{one.name}: {one.question}")
        lines.append(f"    {one.minutes:g} min{needs}; {one.path.relative_to(HOME)} → {shown}")
    lines.append("Run one by its name: python -m benchmarks run coverage [--quick]")
    return "\n".join(lines)
