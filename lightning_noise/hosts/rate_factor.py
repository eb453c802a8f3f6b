"""Multiplies the learning rate only during the optimizer's step: schedulers, checkpoints and
loggers see the unmultiplied rate.
"""

import math
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer


def optimizer_kinds(optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's class and of those that it inherits from, its own first.

    A subclass counts as what it inherits from; optimizers of other packages are known by name.
    """
    return [kind.__name__ for kind in type(optimizer).__mro__]


class _SavedRate(NamedTuple):
    """A group's learning rate before it was multiplied; ``value`` where the rate is a tensor."""

    group: dict[str, Any]
    rate: Any
    value: Tensor | None


class LearningRateFactor:
    """A factor on the learning rates of all groups of one optimizer, applied only inside
    ``optimizer.step``.

    The rates are multiplied in a step pre-hook and restored, bit for bit, in the post-hook.
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
        self._saved: list[_SavedRate] = []
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    @property
    def factor(self) -> float:
        """What the rates are multiplied by; takes effect in the next step.

        Raises:
            ValueError: it is set to something other than a finite number > 0.
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
                self._saved.append(_SavedRate(group, rate, None))
                group["lr"] = rate * self._factor
            elif id(rate) not in seen:  # one tensor may serve several groups
                seen.add(id(rate))
                self._saved.append(_SavedRate(group, rate, rate.clone()))
                rate.mul_(self._factor)

    def _after(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self.restore()

    def restore(self) -> None:
        """Restores the rates if a step ended in an exception, which no post-hook sees; does nothing
        otherwise.
        """
        self._depth = 0
        for saved in self._saved:
            if saved.value is None:
                saved.group["lr"] = saved.rate
            else:
                saved.rate.copy_(saved.value)
        self._saved.clear()

    def close(self) -> None:
        """Removes the hooks and restores the rates; may be called more than once."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "LearningRateFactor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
