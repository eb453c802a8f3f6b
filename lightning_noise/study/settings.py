"""The records that a study takes: how it searches, and where its runs are trained."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields

from lightning_noise.study.checks import check_count

MOST = 10_000  # trials of a batch size, and seeds of its winner
HALVING = (
    "The better half of the trials is now run again with a second seed, the better half of these "
    "with a third, and so on, which costs about as many runs again as `trials`"
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the parameters are searched at each batch size.

    Args:
        trials: points of the search; a power of two fills the space evenly. All are run with one
            seed, the better half of each goal again with a second one, and so on until one is left.
        seeds: reruns of each winner, with seeds that chose nothing.
        seed: of all runs of the search; the reruns have the following ones.
        prune: ends runs whose goals are decided, and trials that cannot be in the better half or
            that take three times the fewest steps of the search. It changes a winner only if such a
            slow trial were the best over all seeds. False gives every run its full budget, which
            the best value under a fixed budget and the share of the space that reaches the goal
            need.
        wave: trials of a batch size that start together; where those of a later wave are ended
            follows from the earlier ones. The search keeps at most ``wave`` times the number of
            batch sizes of workers busy.
        widen: how often an edge of a range may be moved at a batch size where the best trial of
            the search lies at it: by a quarter of the range, with ``trials``/4 further points each
            time. It applies to the learning rate, ``Momentum`` and ``decay_steps``.
        refine: not accepted any more.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
    """

    trials: int = 16
    seeds: int = 5
    seed: int = 0
    prune: bool = True
    wave: int = 4
    widen: int = 2
    refine: InitVar[object] = None

    def __post_init__(self, refine: object) -> None:
        if refine is not None:
            raise TypeError(f"refine was replaced by successive halving: leave it out. {HALVING}.")
        check_count("trials", self.trials, 1)
        check_count("seeds", self.seeds, 1)
        check_count("seed", self.seed, 0)
        check_count("wave", self.wave, 1)
        check_count("widen", self.widen, 0)
        if max(self.trials, self.seeds) > MOST:
            given = f"trials={self.trials}, seeds={self.seeds}"
            raise ValueError(f"trials and seeds must be at most {MOST}, got {given}.")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where the runs of a study are trained.

    Args:
        count: processes that train; 0 trains in this one.
        threads: of torch in each process. Changing it changes only rounding, so a study may
            continue with another number.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
    """

    count: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        check_count("count", self.count, 0)
        check_count("threads", self.threads, 1)


def check_records(search: object, workers: object, unknown: Mapping[str, object]) -> None:
    """Refuses what is no such record, and arguments that belong inside of one.

    Args:
        search: as given to the study.
        workers: as given to the study.
        unknown: keyword arguments that the study does not have.

    Raises:
        TypeError: names the record and shows the call.
    """
    given = dict(unknown)
    if "refine" in given:
        Search(refine=given["refine"])  # says what replaced it
    if isinstance(workers, int) and not isinstance(workers, bool):
        given["count"] = workers
        raise TypeError(f"workers must be a Workers, got {workers!r}: {_call(Workers, given)}.")
    for record in (Search, Workers):
        names = _names(record, given)
        if names:
            verb = "are arguments"
            if len(names) == 1:
                verb = "is an argument"
            text = f"{' and '.join(names)} {verb} of {record.__name__}"
            raise TypeError(f"{text}: {_call(record, given)}.")
    for name in given:
        raise TypeError(f"BatchSizeStudy() got an unexpected keyword argument {name!r}")
    if not isinstance(search, Search):
        raise TypeError(f"search must be a Search, such as Search(trials=16), got {search!r}.")
    if not isinstance(workers, Workers):
        raise TypeError(f"workers must be a Workers, such as Workers(count=2), got {workers!r}.")


def _call(
    record: type[Search | Workers],
    given: Mapping[str, object],
) -> str:
    name = record.__name__
    arguments = [f"{argument}={given[argument]!r}" for argument in _names(record, given)]
    return f"BatchSizeStudy({name.lower()}={name}({', '.join(arguments)}))"


def _names(
    record: type[Search | Workers],
    given: Mapping[str, object],
) -> list[str]:
    """The arguments of ``record`` among the given ones, in the order of its fields."""
    return [field.name for field in fields(record) if field.name in given]
