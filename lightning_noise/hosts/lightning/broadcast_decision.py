"""What rank 0 decides from the reduced numbers, on all ranks: one broadcast of numbers."""

from collections.abc import Callable
from typing import NamedTuple

import lightning as L

from lightning_noise.adapt.policy import Decision
from lightning_noise.adapt.size_plan import Plan


class Outcome(NamedTuple):
    """What was decided: the plan (``None`` for advice), the factor on the learning rate, the size in the user's unit."""

    plan: Plan | None
    factor: float
    decided: float


def agree(trainer: L.Trainer, decide: Callable[[], Outcome]) -> Outcome:
    """What rank 0 decided, on all ranks; so is the error, or the others would wait for ever."""
    outcome: Outcome | None = None
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            outcome = decide()
        except Exception as raised:  # a policy of the user's own may raise anything
            error = raised
    plan = None if outcome is None or outcome.plan is None else tuple(outcome.plan)
    numbers = None if outcome is None else (plan, outcome.factor, outcome.decided)
    told = None if error is None else f"{type(error).__name__}: {error}"
    numbers, told = trainer.strategy.broadcast((numbers, told))
    if numbers is None:
        raise RuntimeError(f"GradientNoiseScale: no batch size could be decided. {told}") from error
    return Outcome(None if numbers[0] is None else Plan(*numbers[0]), numbers[1], numbers[2])


def checked(decision: object) -> Decision:
    """A policy's answer, where it is one.

    Raises:
        TypeError: it is no ``Decision``; says what it is.
    """
    if isinstance(decision, tuple) and len(decision) == 2:
        size, reason = decision
        if isinstance(size, int) and not isinstance(size, bool) and size >= 1 and isinstance(reason, str):
            return Decision(size, reason)
    raise TypeError(
        f"a BatchSizePolicy must return Decision(global_size: int >= 1, reason: str), but it returned {decision!r}."
    )
