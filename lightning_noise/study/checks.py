"""Checks of a study's arguments, where they are given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from lightning_noise.study.goal import Budget, Goal


def check_count(name: str, value: object, least: int) -> None:
    """Refuses what is not a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int >= {least}, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}.")


def check_functions(make_module: Callable[..., Any], make_data: Callable[..., Any]) -> None:
    """Refuses what cannot be called, before anything is trained."""
    for name, rule, given in (
        ("make_module", "from parameters to a LightningModule", make_module),
        ("make_data", "(global_size, seed) -> loaders", make_data),
    ):
        if not callable(given):
            raise TypeError(f"{name} must be a function {rule}, got {given!r}.")


def check_space(search_space: Mapping[str, Any]) -> None:
    """Refuses what is no mapping, and one without a learning rate."""
    if not isinstance(search_space, Mapping):
        rule = "a dict of ranges, such as {'learning_rate': (1e-3, 1.0)}"
        raise TypeError(f"search_space must be {rule}, got {search_space!r}.")
    if "learning_rate" not in search_space:
        raise ValueError(
            f"search_space must hold 'learning_rate', got {sorted(search_space)}: "
            "steps at a learning rate that is not tuned determine no critical batch size."
        )


def check_names(goals: Sequence[Goal]) -> None:
    """Refuses an empty sequence, what is no goal, and two goals of one name."""
    if not goals or not all(isinstance(goal, Goal) for goal in goals):
        raise TypeError(f"goal must be a Goal or a sequence of them, got {goals!r}.")
    names = [goal.name for goal in goals]
    if len(set(names)) < len(names):
        fix = "Give them with Goal(name=...)"
        raise ValueError(f"the goals must have different names, got {names}. {fix}.")


def check_sizes(batch_sizes: Sequence[int], budget: Budget) -> tuple[int, ...]:
    """The sizes in ascending order, each of them once and within the budget.

    NumPy's whole numbers are accepted.
    """
    if not isinstance(batch_sizes, Iterable):
        rule = "a sequence of ints >= 1, such as [16, 64, 256, 1024]"
        raise TypeError(f"batch_sizes must be {rule}, got {batch_sizes!r}.")
    sizes = [_plain(size) for size in batch_sizes]
    for size in sizes:
        check_count("every one of batch_sizes", size, 1)
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(f"batch_sizes must hold different sizes, one or more, got {sizes}.")
    if not isinstance(budget, Budget):
        example = "such as Budget(examples=100_000)"
        raise TypeError(f"budget must be a Budget, {example}, got {budget!r}.")
    too_large = [size for size in sizes if budget.steps_at(size) < 1]
    if too_large:
        given = f"the budget of {budget.examples} examples"
        raise ValueError(f"{given} does not hold one batch of the sizes {too_large}.")
    return tuple(sorted(sizes))


def _plain(size: Any) -> Any:
    """An int where it is a whole number of any kind; check_count refuses the rest."""
    if isinstance(size, Integral) and not isinstance(size, bool):
        return int(size)
    return size
