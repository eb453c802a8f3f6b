"""Which set-ups are supported, how exact the measured norms are in each, and what the others are
refused with.

Every row is a real run. A supported one is compared, step by step, with the gradient of every group
recomputed in fp64 from the weights and batches that the run had (``testing/reference.py``), in this
one process also where the run had two. A refused one is shown with the words it was refused with.
It fails where a norm is further off than the row allows, where a row that is to be refused
is not, and where a rule of ``hosts/lightning/refusals.py`` has no row.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness.processes import in_processes
from benchmarks.harness.spec import Benchmark, Done, Timed, option
from benchmarks.harness.tables import escaped, markdown
from benchmarks.right.setups.kinds import ByHand, Refused, Setup
from benchmarks.right.setups.refused import REFUSED, unlisted
from benchmarks.right.setups.runs import (
    Row,
    Run,
    ask,
    judge,
    judge_refusal,
    run,
    run_by_hand,
    silence,
)
from benchmarks.right.setups.supported import BY_HAND, SUPPORTED

ALL = (*SUPPORTED, *BY_HAND, *REFUSED)
MANY = [setup for setup in (*SUPPORTED, *REFUSED) if setup.ranks > 1]


def rows_of(setups: Iterable[Setup | ByHand | Refused]) -> Iterator[list[Row]]:
    """The rows of each set-up; those of two ranks in one start of two processes."""
    by_rank: list[list[Run]] = []
    for setup in setups:
        if isinstance(setup, ByHand):
            with silence():
                yield run_by_hand(setup)
            continue
        if setup.ranks > 1 and not by_rank:
            by_rank = in_processes("benchmarks.right.setups.runs:rank", 2, {}, timeout=600)
        runs = runs_of(setup, by_rank)
        if isinstance(setup, Refused):
            yield [judge_refusal(setup, runs)]
        else:
            yield [judge(setup, runs)]


def runs_of(setup: Setup | Refused, by_rank: Sequence[Sequence[Run]]) -> list[Run]:
    """What each rank has seen."""
    if setup.ranks > 1:
        return [of_rank[MANY.index(setup)] for of_rank in by_rank]
    if isinstance(setup, Refused) and setup.stand_in:
        return [ask(setup)]
    with silence():
        return [run(setup)]


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All set-ups.

    Raises:
        ValueError: a rule of ``hosts/lightning/refusals.py`` has no row.
    """
    if unlisted():
        raise ValueError(f"no row for the rules {sorted(unlisted())} of refusals.py.")
    names = options.only or [setup.name for setup in ALL]
    known = [n for n, s in enumerate(ALL) if s.name in names and (n,) not in done]
    for number, rows in zip(known, rows_of(ALL[number] for number in known), strict=True):
        yield [row._replace(number=number) for row in rows]


def supported_table(rows: Sequence[Row]) -> str:
    """What was measured, and how far off."""
    lines = []
    for row in rows:
        if row.message:
            continue
        steps = (str(row.measured), row.skipped or "0")
        norms = (f"{row.q_small:.1e}", f"{row.q_big:.1e}")
        lines.append((row.name, f"`{row.told}`", f"`{row.probe}`", *steps, *norms))
    head = ("set-up", "configured by", "probe", "steps measured", "steps skipped")
    return markdown((*head, "error of q_small", "error of q_big"), lines)


def refused_table(rows: Sequence[Row]) -> str:
    """What was refused, and with which words."""
    lines = []
    for row in rows:
        if row.message:
            lines.append((row.name, row.told, f"`{row.code}`", escaped(row.message)))
    return markdown(("set-up", "how", "code or rule", "refused with"), lines)


def number_of(row: Row) -> int:
    """In the order of the page."""
    return row.number


@dataclass(frozen=True, kw_only=True)
class Options(Timed):
    only: tuple[str, ...] = option((), "set-ups by name; default: all", extends=True)


BENCHMARK = Benchmark(
    name="setups",
    question="Which set-ups are supported, how exact, and what are the others refused with?",
    about=__doc__,
    row=Row,
    key=("number",),
    measure=measure,
    options=Options(),
    quick=Options(only=("one device, one batch a step", "GAN, single examples", "LBFGS")),
    tables={"setups supported": supported_table, "setups refused": refused_table},
    minutes=3,
    digits=2,
    order=number_of,
)
