"""Checks of a study's arguments, where they are given."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from numbers import Integral
from typing import Any

from lightning_noise.study.goal import Budget, Goal


def check_count(name: str, value: object, least: int) -> None:
    """Refuses what is not an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int >= {least}, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}.")


def all_are(
    values: Iterable[object],
    kind: type | tuple[type, ...],
) -> bool:
    """Whether every value is of this type, or of one of these types."""
    return all(isinstance(value, kind) for value in values)


def has_duplicates(values: Sequence[object]) -> bool:
    """Whether a value occurs twice."""
    return len(set(values)) < len(values)


def check_functions(
    make_module: Callable[..., Any],
    make_data: Callable[..., Any],
) -> None:
    """Refuses what cannot be called, before anything is trained."""
    if not callable(make_module):
        rule = "from parameters to a LightningModule"
        raise TypeError(f"make_module must be a function {rule}, got {make_module!r}.")
    if not callable(make_data):
        rule = "(global_size, seed) -> loaders"
        raise TypeError(f"make_data must be a function {rule}, got {make_data!r}.")


def check_executor(executor: object) -> None:
    """Refuses what takes no tasks."""
    if executor is not None and not isinstance(executor, Executor):
        example = "such as ProcessPoolExecutor(4) or the get_executor() of a Dask client"
        rule = f"executor must be an Executor of concurrent.futures, {example}"
        raise TypeError(f"{rule}, got {executor!r}.")


def as_goals(goal: Goal | Sequence[Goal]) -> tuple[Goal, ...]:
    """One or several goals as a tuple.

    Raises:
        TypeError: there is none, or one is not a ``Goal``.
        ValueError: two of them have the same name.
    """
    goals: tuple[Any, ...] = (goal,)
    if isinstance(goal, (list, tuple)):
        goals = tuple(goal)
    if not goals or not all_are(goals, Goal):
        raise TypeError(f"goal must be a Goal or a sequence of them, got {goals!r}.")
    names = [goal.name for goal in goals]
    if has_duplicates(names):
        fix = "Give them with Goal(name=...)"
        raise ValueError(f"the goals must have different names, got {names}. {fix}.")
    return goals


def further_of(
    further: Goal | Sequence[Goal],
    goals: Sequence[Goal],
) -> dict[Goal, Goal]:
    """Further goal → the goal from whose runs it is read: the next harder one of the same metric.

    Raises:
        TypeError: one is not a ``Goal``.
        ValueError: there is no harder goal, or two goals have the same name.
    """
    if not isinstance(further, Goal) and not further:
        return {}
    found = {}
    for goal in as_goals(further):
        harder = [other for other in goals if _is_harder(other, goal)]
        if not harder:
            rule = "must be no harder than a goal of the study with the same metric and smoothing"
            fix = "Give it as goal= instead, which tunes the learning rate for it"
            raise ValueError(f"further_goals {rule}, which {goal.name!r} is not. {fix}.")
        found[goal] = min(harder, key=lambda other: abs(other.target - goal.target))
    as_goals([*goals, *found])
    return found


def _is_harder(one: Goal, other: Goal) -> bool:
    """Whether a run that reaches ``one`` has reached ``other`` before, or at the same time."""
    same = (one.metric, one.mode, one.on, one.smoothing)
    if same != (other.metric, other.mode, other.on, other.smoothing):
        return False
    if one.mode == "min":
        return one.target <= other.target
    return one.target >= other.target


def check_sizes(
    batch_sizes: Sequence[int],
    budget: Budget,
) -> tuple[int, ...]:
    """The sizes in ascending order, each of them once and within the budget.

    Integers of NumPy are accepted.
    """
    if not isinstance(batch_sizes, Iterable):
        rule = "a sequence of ints >= 1, such as [16, 64, 256, 1024]"
        raise TypeError(f"batch_sizes must be {rule}, got {batch_sizes!r}.")
    sizes = list(map(_plain, batch_sizes))
    for size in sizes:
        check_count("every one of batch_sizes", size, 1)
    if not sizes or has_duplicates(sizes):
        raise ValueError(f"batch_sizes must hold different sizes, one or more, got {sizes}.")
    if not isinstance(budget, Budget):
        example = "such as Budget(examples=100_000)"
        raise TypeError(f"budget must be a Budget, {example}, got {budget!r}.")
    too_large = []
    for size in sizes:
        if budget.steps_at(size) < 1:
            too_large.append(size)
    if too_large:
        given = f"the budget of {budget.examples} examples"
        raise ValueError(f"{given} does not hold one batch of the sizes {too_large}.")
    return tuple(sorted(sizes))


def _plain(size: Any) -> Any:
    """An int where it is an integer of any type; check_count refuses the rest."""
    if isinstance(size, Integral) and not isinstance(size, bool):
        return int(size)
    return size
