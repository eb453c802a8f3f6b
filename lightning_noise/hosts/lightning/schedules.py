"""Learning rate schedules that count optimizer steps, while the number of steps in an epoch
changes.
"""

import math
from typing import Any

import lightning as L
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

ALMOST = 1e-9  # paces such as 22.5 or 1/3 add up to whole steps but for rounding


class ByExamples(LRScheduler):
    """Makes a learning rate schedule follow the examples used instead of the optimizer steps.

    Give the wrapped scheduler the total that holds for the starting batch size, and return this one
    from ``configure_optimizers`` with ``"interval": "step"``. At the starting batch size nothing
    changes. When the batch size has grown so that an epoch has a tenth of the steps, each optimizer
    step advances the schedule by ten, and it ends when training does. ``GradientNoiseScale`` sets
    the :attr:`pace` whenever it changes the batch size; without it, set the pace yourself.

    Args:
        scheduler: any scheduler that is stepped without a metric.
        total_steps: the schedule stops changing after so many of its steps; ``None``: after
            ``total_steps`` of a OneCycleLR, which raises an error beyond, and never for other
            schedulers.

    Raises:
        TypeError: ``scheduler`` is no such scheduler.
        ValueError: ``total_steps`` is not an int >= 1.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule = ByExamples(torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=8))
    >>> rates = []
    >>> for pace in (1, 1, 2, 2, 2):
    ...     schedule.pace = pace
    ...     optimizer.step()
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates
    [0.875, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(self, scheduler: LRScheduler, total_steps: int | None = None) -> None:
        # Like torch's own SequentialLR this does not call super().__init__, which would set rates
        # and count a first step.
        needs_metric = isinstance(scheduler, torch_schedulers.ReduceLROnPlateau)
        if needs_metric or not isinstance(scheduler, LRScheduler):
            raise TypeError(
                "scheduler must be a torch LRScheduler that is stepped without a metric, "
                f"got {type(scheduler).__name__}. ReduceLROnPlateau counts epochs: it needs no "
                "wrapper."
            )
        if total_steps is not None:
            _check_total(total_steps)
        elif isinstance(scheduler, torch_schedulers.OneCycleLR):
            total_steps = scheduler.total_steps
        self.scheduler = scheduler
        self.optimizer = scheduler.optimizer
        self._limit = total_steps
        self._pace = 1.0
        self._credit = 0.0  # steps of the schedule that are due, below 1 between calls
        self._taken = max(0, getattr(scheduler, "last_epoch", 0))

    @property
    def pace(self) -> float:
        """Steps of the schedule per optimizer step: the steps of an epoch at the start, divided by
        those of an epoch now.

        Raises:
            ValueError: it is set to something other than a finite number > 0.
        """
        return self._pace

    @pace.setter
    def pace(self, value: float) -> None:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"pace must be a finite number > 0, got {value!r}.")
        self._pace = float(value)

    def step(self, epoch: int | None = None) -> None:  # noqa: ARG002  # torch's own signature
        """Advances the schedule by :attr:`pace`; fractions are carried over to the next call."""
        self._credit += self._pace
        due = math.floor(self._credit + ALMOST)
        self._credit = max(0.0, self._credit - due)
        if self._limit is not None:
            left = max(0, self._limit - self._taken)
            due = min(due, left)
        for _ in range(due):
            self.scheduler.step()
        self._taken += due

    def get_last_lr(self) -> list[Any]:
        """The current rates, one per parameter group."""
        return self.scheduler.get_last_lr()

    def get_lr(self) -> list[Any]:
        """What the wrapped scheduler returns."""
        return self.scheduler.get_lr()

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped scheduler's state, the pace and the fraction carried over: exact."""
        return {
            "pace": self._pace,
            "credit": self._credit,
            "taken": self._taken,
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self._pace = state_dict["pace"]
        self._credit = state_dict["credit"]
        self._taken = state_dict["taken"]
        self.scheduler.load_state_dict(state_dict["scheduler"])


def _check_total(steps: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"total_steps must be None or an int >= 1, got {steps!r}.")


# what already counts examples, or steps by a metric
UNAFFECTED = (ByExamples, torch_schedulers.ReduceLROnPlateau)
HAVE_TOTAL_ITERS = (
    torch_schedulers.LinearLR,
    torch_schedulers.ConstantLR,
    torch_schedulers.PolynomialLR,
)


def set_pace(trainer: L.Trainer, pace: float) -> None:
    """Sets the pace of every :class:`ByExamples` that the trainer steps with the optimizer."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and isinstance(config.scheduler, ByExamples):
            config.scheduler.pace = pace


def step_counters(trainer: L.Trainer) -> tuple[str, ...]:
    """For every attached scheduler that counts optimizer steps: its name and what will happen when
    the batch size changes.
    """
    consequences: list[str] = []
    for config in trainer.lr_scheduler_configs:
        counts_steps = config.interval == "step" and not config.reduce_on_plateau
        if counts_steps and not isinstance(config.scheduler, UNAFFECTED):
            consequences.append(_consequence(config.scheduler))
    return tuple(consequences)


def _consequence(scheduler: Any) -> str:
    name = type(scheduler).__name__
    total = total_steps(scheduler)
    counts = ""
    growing = "its changes of the rate come later than planned, in epochs and in examples"
    shrinking = ""
    if isinstance(scheduler, torch_schedulers.LambdaLR):
        growing = (
            "if its function expects a certain number of steps, it does not get that far, and the "
            "rate stays too high"
        )
    elif total is not None:
        counts = f" ({total} in all)"
        growing = (
            "it comes to its end later than planned, in epochs and in examples, or not at all, "
            "and the rate stays too high"
        )
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        shrinking = f"; when it shrinks, step {scheduler.total_steps + 1} raises an error"
    return (
        f"{name} counts optimizer steps{counts}. When the batch grows, an epoch has fewer of them: "
        f"{growing}{shrinking}. "
        f"Wrap it to count examples instead: lightning_noise.ByExamples({name}(...))."
    )


def total_steps(scheduler: Any) -> int | None:
    """The step after which a scheduler changes nothing more (a cosine: turns back); ``None`` where
    there is none or none is known.
    """
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        return _total_of_sequence(scheduler)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        return _total_of_chain(scheduler)
    if isinstance(scheduler, torch_schedulers.MultiStepLR):
        return max(scheduler.milestones, default=None)
    if isinstance(scheduler, torch_schedulers.CosineAnnealingLR):
        return int(scheduler.T_max)
    if isinstance(scheduler, HAVE_TOTAL_ITERS):
        return int(scheduler.total_iters)
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        return int(scheduler.total_steps)
    return None


def _total_of_sequence(scheduler: torch_schedulers.SequentialLR) -> int | None:
    # torch keeps the documented arguments in private fields only
    last = total_steps(scheduler._schedulers[-1])
    if last is None:
        return None
    return last + scheduler._milestones[-1]


def _total_of_chain(scheduler: torch_schedulers.ChainedScheduler) -> int | None:
    totals: list[int] = []
    for part in scheduler._schedulers:
        total = total_steps(part)
        if total is None:
            return None
        totals.append(total)
    return max(totals)
