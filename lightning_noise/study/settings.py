"""The records that a study takes: how it searches, and where its runs are trained."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from lightning_noise.study.checks import check_count


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the parameters are searched at each batch size.

    Args:
        trials: runs of the search; a power of two fills the space evenly.
        refine: runs of the closer search around each winner; 0 leaves it out.
        seeds: reruns of each winner with fresh seeds.
        seed: of all runs of the search; the reruns have the following ones.
        prune: ends runs whose goals are decided or can no longer be won, which never changes a
            winner. False gives every run its full budget, which the best value under a fixed budget
            and the share of the space that reaches the goal need.
        wave: trials of a batch size that start together; those of a later wave end where they can
            no longer be better than the best of the earlier ones. The search keeps at most
            ``wave`` times the number of batch sizes of workers busy.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
    """

    trials: int = 16
    refine: int = 0
    seeds: int = 5
    seed: int = 0
    prune: bool = True
    wave: int = 4

    def __post_init__(self) -> None:
        check_count("trials", self.trials, 1)
        check_count("refine", self.refine, 0)
        check_count("seeds", self.seeds, 1)
        check_count("seed", self.seed, 0)
        check_count("wave", self.wave, 1)


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
