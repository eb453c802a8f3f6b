"""Multiplies the learning rate around the optimizer's step and only there: schedulers, checkpoints,
loggers see their own.
"""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def optimizer_kinds(optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's class and of those that it inherits from, its own first.

    A subclass is what it inherits from; optimizers of other packages go by their names.
    """
    return [kind.__name__ for kind in type(optimizer).__mro__]


class LearningRateFactor:
    """A factor on the learning rates of all groups of one optimizer, applied only inside
    ``optimizer.step``.

    The rates are multiplied in a step pre-hook and put back, bit for bit, in the post-hook.
    Whatever a scheduler, a checkpoint or LearningRateMonitor reads and writes between two steps is
    therefore untouched, and every scheduler stays right, also those that compute the next rate from
    the last one. A rate that is a tensor keeps its place in memory. Where a GradScaler skips a step
    for overflow, the hooks do not run at all.

    While the step runs (Lightning runs ``training_step`` inside it) ``param_groups`` show the
    multiplied rate.

    Args:
        optimizer: a torch optimizer.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> weight.grad = torch.ones(1)
    >>> with LearningRateFactor(optimizer) as rate:
    ...     rate.factor = 3.0
    ...     optimizer.step()
    >>> weight.item(), optimizer.param_groups[0]["lr"]
    (-1.5, 0.5)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._factor = 1.0
        self._depth = 0  # a step that calls the step of its parent class runs the hooks of both
        self._saved: list[tuple[dict[str, Any], Any, Tensor | None]] = []
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    @property
    def factor(self) -> float:
        """What the rates are multiplied by; takes effect in the next step.

        Raises:
            ValueError: it is set to something else than a finite number > 0.
        """
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"factor must be a finite number > 0, got {value!r}.")
        self._factor = float(value)

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        self._depth += 1
        if self._depth > 1 or self._factor == 1:
            return
        seen: set[int] = set()
        for group in optimizer.param_groups:
            rate = group["lr"]
            if not isinstance(rate, Tensor):
                self._saved.append((group, rate, None))
                group["lr"] = rate * self._factor
            elif id(rate) not in seen:  # one tensor may serve several groups
                seen.add(id(rate))
                self._saved.append((group, rate, rate.clone()))
                rate.mul_(self._factor)

    def _after(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self.restore()

    def restore(self) -> None:
        """Puts the rates back if a step ended in an exception, which no post-hook sees; does
        nothing otherwise.
        """
        self._depth = 0
        for group, rate, value in self._saved:
            if value is None:
                group["lr"] = rate
            else:
                rate.copy_(value)
        self._saved.clear()

    def close(self) -> None:
        """Removes the hooks and puts the rates back; may be called more than once."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "LearningRateFactor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
