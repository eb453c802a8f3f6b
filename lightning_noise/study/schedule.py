"""How many steps a run may take at each batch size, and after how many it is validated. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_noise.study.checks import check_count
from lightning_noise.study.goal import Budget, Goal

VALIDATIONS = 100  # in a run that uses up its budget, where validate_every is not given


class Schedule(NamedTuple):
    """Of the runs of a study.

    Attributes:
        validate_every: batch size → optimizer steps between validations; 1 where nothing is
            validated.
        budget_steps: batch size → optimizer steps that a run may take, a multiple of those.
    """

    validate_every: dict[int, int]
    budget_steps: dict[int, int]


def make_schedule(
    goals: Sequence[Goal],
    batch_sizes: Sequence[int],
    budget: Budget,
    validate_every: int | None,
) -> Schedule:
    """The schedule at every batch size.

    Args:
        goals: of the study.
        batch_sizes: global batch sizes, in examples.
        budget: of each run.
        validate_every: examples between validations; None: a hundredth of the budget.

    Raises:
        TypeError, ValueError: ``validate_every`` is not an int >= 1, or exceeds the budget.
    """
    if validate_every is not None:
        check_count("validate_every", validate_every, 1)
    validated = [goal for goal in goals if goal.on == "validation"]
    every = {}
    steps = {}
    too_long = []
    for size in batch_sizes:
        budget_steps = budget.steps_at(size)
        every[size] = 1
        if validated:
            every[size] = _steps_between(validate_every, size, budget_steps)
        if every[size] > budget_steps:
            too_long.append(size)
        steps[size] = budget_steps // every[size] * every[size]
    if too_long:
        rule = "validate_every must not exceed the budget"
        raise ValueError(f"{rule}, got {validate_every!r}, which does at global sizes {too_long}.")
    return Schedule(every, steps)


def _steps_between(examples: int | None, global_size: int, budget_steps: int) -> int:
    if examples is None:
        return max(1, budget_steps // VALIDATIONS)
    return max(1, examples // global_size)
