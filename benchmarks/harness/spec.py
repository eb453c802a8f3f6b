"""What a benchmark is: a question, the rows that answer it, and the tables made of the rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[2]
RESULTS = HOME / "benchmarks" / "results"

Row = Any  # a NamedTuple, the same in all rows of a benchmark
Done = Mapping[tuple[Any, ...], Sequence[Row]]
Table = Callable[[Sequence[Row]], str]


def option(
    default: Any,
    about: str,
    *,
    extends: bool = False,
    choices: Sequence[str] = (),
    least: float | None = None,
) -> Any:
    """A field of a benchmark's options, which ``run`` takes from the command line.

    Args:
        default: of a full run.
        about: what it is, for ``--help``.
        extends: whether rows with another value may stand in one file: it says how much is
            measured, not what.
        choices: all values that are known.
        least: the smallest value of a number, which :class:`Settings` checks.
    """
    known = {"about": about, "extends": extends, "choices": tuple(choices), "least": least}
    return field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that are checked.

    Raises:
        ValueError: a number is smaller than its least value.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            least, value = one.metadata["least"], getattr(self, one.name)
            if least is not None and value < least:
                name = one.name.replace("_", "-")
                raise ValueError(f"--{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Simulated(Settings):
    """The options of a benchmark whose lines are simulated, each from a seed of its own."""

    runs: int = option(4000, "simulated for each line of the table", least=1)
    seed: int = option(0, "of all random numbers")


@dataclass(frozen=True, kw_only=True)
class Timed(Settings):
    """The options of a benchmark whose rows depend on the machine: its facts are kept beside them.
    All others run with one thread.
    """

    threads: int = option(1, "threads of torch")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Args:
        name: on the command line, and of its file in ``benchmarks/results``.
        question: that its figures answer.
        about: method and caveats, the docstring of its module.
        row: the NamedTuple of a line of the file.
        key: fields that say what a row measures. Rows with the same key are measured together.
        measure: (options, rows by key that the file has) → groups of new rows. A group is written
            as soon as it is there, and an interrupted run goes on after the last one.
        options: a frozen dataclass of :func:`option` fields, as a full run has them; one derived
            from :class:`Timed` where times are measured.
        quick: the same for a run of seconds.
        tables: blocks of the pages, by name: Markdown made of the rows.
        minutes: of a full run on two cores.
        needs: beyond ``pip install '.[dev]'``.
        missing: what even the quick form needs and this machine does not have; "" for nothing.
        digits: of a number in the file.
        order: sort key of the rows in the file; by default they stay in the order of measuring.
        draw: makes a figure of the rows.
    """

    name: str
    question: str
    about: str
    row: type
    key: tuple[str, ...]
    measure: Callable[[Any, Done], Iterable[Sequence[Row]]]
    options: Any
    quick: Any
    tables: Mapping[str, Table]
    minutes: float
    needs: str = ""
    missing: Callable[[], str] = str
    digits: int = 6
    order: Callable[[Row], Any] | None = None
    draw: Callable[[Sequence[Row], Path], None] | None = None

    @property
    def path(self) -> Path:
        """The file of the committed rows."""
        return RESULTS / f"{self.name}.csv"

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """What a row measures."""
        return tuple(getattr(row, name) for name in self.key)
