"""Adapting the batch size as a pure machine: events and measurements in, actions out."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lightning_noise.adapt.actions import (
    Action,
    ChangeInside,
    MeasureEvery,
    MeasureSizeAnew,
    Say,
    SetAccumulation,
    SetBatch,
    SetPace,
    SetRateFactor,
    Warn,
)
from lightning_noise.adapt.adaptation_state import (
    Change,
    Mark,
    Sizes,
    State,
    from_plain,
    to_plain,
)
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.adaptive_summary import Period, clock_lines, summary
from lightning_noise.adapt.cadence import is_known
from lightning_noise.adapt.decisions import Decisions, Limits, Measurement
from lightning_noise.adapt.guard import REST, Guard
from lightning_noise.adapt.run_policy import needs_clock
from lightning_noise.adapt.size_plan import BatchPlan
from lightning_noise.adapt.step_times import StepTimes
from lightning_noise.core.estimate import NoiseEstimate


class AboveMaxLocalSizeError(ValueError):
    """A micro-batch is larger than ``max_local_size``."""


class Adaptation:
    """Decides on the batch size of a run, and returns what a host must do about it.

    Every method that is not a question is an event: it changes :attr:`state`, which is all that the
    machine knows, and returns the actions that the host performs in their order. Events that take
    ``limits`` ask the policy. In a distributed run they happen on rank 0 alone, and the other ranks
    receive the actions and the state.

    A plan that is decided is ``following`` until the next epoch begins, or inside an epoch until
    the first batch of its size arrives; then it is ``current``. Sizes are planned in examples of
    the loader; the policy sees them in the unit that is measured, which may be another one.

    Args:
        settings: how to adapt.
        unit: what is measured, in words.

    >>> from lightning_noise.core.estimate import NoiseEstimate
    >>> seen = NoiseEstimate(1000.0, 800.0, 1200.0, 1.0, 1000.0, True, 400, 180.0)
    >>> machine = Adaptation(AdaptiveBatchSize(learning_rate="sqrt"))
    >>> actions = machine.begin_fit(Mark(0, 0.0), BatchPlan(16, 1, 1))
    >>> actions = machine.begin_epoch(0, batches=100)
    >>> measured = Measurement(seen, 16.0, 100, 1600.0, None, 1000.0)
    >>> for action in machine.end_epoch(measured, Limits()):
    ...     print(action)
    Say(text='global size 16 → 32 from epoch 1 on (local size 32 × accumulation 1 × 1 rank), \
learning-rate factor 1.41; grow: b_simple is 1000 [800, 1200], \
share of step time 0.5, of noise 0.98, predicted gain 31 %')
    SetBatch(ratio=Fraction(2, 1))
    """

    def __init__(self, settings: AdaptiveBatchSize, unit: str = "examples") -> None:
        self.settings = settings
        self.unit = unit
        self.state = State()
        self._decisions = Decisions(settings, unit)

    @property
    def rate_factor(self) -> float:
        """The current factor on the learning rate."""
        return self.state.rate_factor

    @property
    def needs_clock(self) -> bool:
        """Whether the host must pass the durations of optimizer steps to :meth:`timed`."""
        return not self.settings.advise_only and needs_clock(self.settings.rule)

    @property
    def watches_losses(self) -> bool:
        """Whether the host must pass losses to :meth:`losses`."""
        return self.settings.guard and not self.settings.advise_only

    def timed(self, measured: Sequence[float], others: Sequence[float] = ()) -> None:
        """Optimizer steps of the current size took so many seconds each.

        What measuring adds is left out of the times of a size, as far as it is known.

        Args:
            measured: steps that were measured.
            others: steps that were not.
        """
        sizes = self.state.sizes
        if sizes is None:
            return
        cadence = self.state.cadence.timed(measured, others)
        usual: Sequence[float] = others
        if cadence.every == 1:
            usual = [seconds / (cadence.ratio or 1.0) for seconds in (*measured, *others)]
        elif cadence.ratio is None:
            usual = measured  # as those before; what measuring adds is taken out of all together
        times = self.state.times.adding(sizes.current.global_size, usual)
        self.state = self.state._replace(times=times, cadence=cadence)

    def losses(self, values: Sequence[float]) -> list[Action]:
        """The losses of the latest optimizer steps: where they jump, the learning rate is lowered.

        Args:
            values: since the last call, oldest first.
        """
        sizes = self.state.sizes
        if sizes is None or not self.settings.guard:
            return []
        before = self.state
        guard = before.guard.after(values, sizes.rate_factor)
        self.state = before._replace(guard=guard)
        actions: list[Action] = []
        if guard.jumps > before.guard.jumps:
            actions.append(Say(_after_jump(self.rate_factor)))
        if self.rate_factor != before.rate_factor:
            actions.append(SetRateFactor(self.rate_factor))
        return actions

    def forget(self) -> None:
        """Forgets every decision, for a fit of another module."""
        self.state = State()

    @property
    def waits(self) -> bool:
        """Whether a decision has not yet taken effect."""
        return self.state.following is not None

    def in_force(self) -> list[Action]:
        """The actions that bring a trainer from its original sizes to those of the state."""
        sizes = self.state.sizes
        if sizes is None:
            return []
        return [
            _set_batch(sizes),
            SetAccumulation(sizes.current.accumulation),
            SetRateFactor(self.rate_factor),
        ]

    def begin_fit(self, now: Mark, start: BatchPlan | None) -> list[Action]:
        """A fit begins, or continues from a checkpoint.

        Args:
            now: where the run is.
            start: the sizes of the trainer and its loaders; ``None`` for advice alone, which does
                not change them.

        Raises:
            AboveMaxLocalSizeError: the trainer's or a checkpoint's micro-batch is larger than
                ``max_local_size``.
        """
        if start is not None:
            self._check_local_size(start)
        if self.state.period_start is None:
            self.state = self.state._replace(period_start=now)
        if start is None:
            return []
        sizes = self.state.sizes
        if sizes is None:
            self.state = self.state._replace(sizes=Sizes(start, start))
            return self.in_force()
        if sizes.start == start:
            return self.in_force()
        self.state = self.state._replace(
            sizes=Sizes(start, start),
            times=StepTimes(),
            left=None,
            guard=Guard(),
            cadence=self.state.cadence.resized(),
        )
        return [Warn(_another_start(sizes.start, start)), MeasureSizeAnew(), *self.in_force()]

    def _check_local_size(self, start: BatchPlan) -> None:
        most = self.settings.max_local_size
        sizes = self.state.sizes
        largest = start.local_size
        if sizes is not None:
            largest = max(largest, sizes.current.local_size, sizes.loaded.local_size)
        if most is not None and largest > most:
            raise AboveMaxLocalSizeError(
                f"max_local_size={most} is below the loader's batch size of {largest}. "
                "Give a larger one, or a smaller batch_size to the DataLoader."
            )

    def begin_epoch(self, epoch: int, batches: float) -> list[Action]:
        """An epoch begins with loaders of the following plan, which takes effect.

        Args:
            epoch: its number.
            batches: micro-batches that it has; infinite where the data have no known end.
        """
        self.state = self.state._replace(epoch=epoch)
        actions = self._bring_into_force()
        sizes = self.state.sizes
        if sizes is None:
            return []
        steps = math.inf
        if math.isfinite(batches):
            steps = math.ceil(batches / sizes.current.accumulation)
        if sizes.epoch_steps is None and sizes.current == sizes.start:
            sizes = sizes._replace(epoch_steps=steps)
            self.state = self.state._replace(sizes=sizes)
        return [*actions, SetPace(_pace(sizes, steps))]

    def end_epoch(self, measured: Measurement, limits: Limits) -> list[Action]:
        """An epoch has ended and all its steps are measured: decides on the next."""
        self._end_period(measured)
        actions = self._take(measured, limits)
        if self.state.sizes is None or self.state.following is None:
            return actions
        return [*actions, _set_batch(self.state.sizes)]

    def decides_now(self, optimizer_steps: int) -> bool:
        """Whether a decision is due inside an epoch."""
        between = self.settings.steps_between
        if between is None or self.waits:
            return False
        return optimizer_steps - self.state.decided_at >= between

    def inside_epoch(self, measured: Measurement, limits: Limits) -> list[Action]:
        """Decides in the middle of an epoch; the change waits for :meth:`arrives`."""
        actions = self._take(measured, limits, within_epoch=True)
        return [*actions, *self.waiting_inside()]

    def _take(
        self, measured: Measurement, limits: Limits, *, within_epoch: bool = False
    ) -> list[Action]:
        """Decides on the size, and on how often to measure."""
        rest: list[Action] = []
        if limits.may_rest:
            rest = self._rest(measured.estimate)
        limits = self._within_memory(limits)
        take = self._decisions.take
        self.state, actions = take(self.state, measured, limits, within_epoch=within_epoch)
        return [*rest, *actions]

    def _rest(self, estimate: NoiseEstimate) -> list[Action]:
        before = self.state.cadence
        cadence = before.decided(known=is_known(estimate))
        times = self.state.times
        if before.ratio is None and cadence.ratio is not None:
            times = times.divided(cadence.ratio)  # all of them are of measured steps
        self.state = self.state._replace(cadence=cadence, times=times)
        if cadence.every == before.every:
            return []
        return [MeasureEvery(cadence.every)]

    def waiting_inside(self) -> list[Action]:
        """The change that waits, as the loaders of a running epoch need it."""
        sizes = self.state.sizes
        if sizes is None or sizes.following is None:
            return []
        change = ChangeInside(_set_batch(sizes).ratio, sizes.following.plan.accumulation)
        return [change]

    def arrives(self, measured: Measurement) -> list[Action]:
        """Inside an epoch, the next batch is the first of the following plan: changes to it."""
        if self.waits:
            self._end_period(measured)
        actions = self._bring_into_force()
        if self.state.sizes is None or not actions:
            return actions
        pace = SetPace(_pace(self.state.sizes, math.inf))
        return [_set_batch(self.state.sizes), *actions, pace]

    @property
    def can_go_back(self) -> bool:
        """Whether :meth:`out_of_memory` has a smaller micro-batch to go back to."""
        sizes = self.state.sizes
        if sizes is None or sizes.previous is None:
            return False
        return sizes.previous.plan.local_size < sizes.current.local_size

    def out_of_memory(self, measured: Measurement) -> list[Action]:
        """Memory does not hold the current micro-batch: goes back to the one before.

        No later micro-batch is larger; a larger batch size is then reached by accumulation.
        """
        sizes = self.state.sizes
        if sizes is None or sizes.previous is None:
            return []
        self._end_period(measured)
        too_large = sizes.current
        plan, rate_factor = sizes.previous
        sizes = sizes._replace(
            current=plan,
            rate_factor=rate_factor,
            following=None,
            previous=None,
        )
        self.state = self.state._replace(
            sizes=sizes,
            fits=plan.local_size,
            decided_at=measured.optimizer_steps,
            cadence=self.state.cadence.resized(),
        )
        return [
            Warn(_not_held(too_large, plan)),
            *self.in_force(),
            MeasureSizeAnew(),
            SetPace(_pace(sizes, math.inf)),
        ]

    def _within_memory(self, limits: Limits) -> Limits:
        fits = self.state.fits
        if fits is None:
            return limits
        given = limits.bounds.max_local_size
        if given is not None:
            fits = min(fits, given)
        bounds = limits.bounds._replace(max_local_size=fits)
        return limits._replace(bounds=bounds)

    def end_training(self, measured: Measurement) -> None:
        """A run ends without a further decision."""
        self._end_period(measured)

    def summary(self) -> list[str]:
        """Lines for the end of a run."""
        if not self.settings.advise_only:
            lines = summary(self.state.history, self.rate_factor, self.unit)
            return [*lines, *self._clock_lines()]
        decided = self.state.decided
        if decided is None:
            return []
        advice = f"a global size of {decided:.0f} {self.unit}"
        return [f"advice at the end (nothing was changed): {advice}"]

    def _clock_lines(self) -> list[str]:
        if not self.needs_clock:
            return []
        return clock_lines(self.state.times, self.state.cadence)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain Python values, for a checkpoint; the same on all ranks."""
        return to_plain(self.state)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            KeyError, TypeError: a part is missing or damaged.
        """
        state = from_plain(saved)
        if self.settings.advise_only:  # advice is about the sizes that this run has
            state = state._replace(sizes=None)
        self.state = state

    def _bring_into_force(self) -> list[Action]:
        sizes = self.state.sizes
        if sizes is None or sizes.following is None:
            return []
        plan, rate_factor = sizes.following
        previous = Change(sizes.current, sizes.rate_factor)
        sizes = sizes._replace(
            current=plan,
            rate_factor=rate_factor,
            following=None,
            previous=previous,
        )
        self.state = self.state._replace(sizes=sizes, cadence=self.state.cadence.resized())
        return [
            SetAccumulation(plan.accumulation),
            SetRateFactor(self.rate_factor),
            MeasureSizeAnew(),
        ]

    def _end_period(self, measured: Measurement) -> None:
        """Adds the period to the history; the next one begins."""
        start = self.state.period_start or Mark(0, 0.0)
        self.state = self.state._replace(period_start=measured.mark)
        steps = measured.optimizer_steps - start.optimizer_steps
        if measured.global_size is None or steps <= 0:
            return
        size = self._decisions.size_in_use(self.state.sizes, measured.global_size)
        period = Period(
            epoch=self.state.epoch,
            global_size=size,
            steps=steps,
            examples=measured.examples - start.examples,
            noise_scale=measured.noise_scale,
        )
        self.state = self.state._replace(history=(*self.state.history, period))


def _set_batch(sizes: Sizes) -> SetBatch:
    ratio = Fraction(sizes.loaded.local_size, sizes.start.local_size)
    return SetBatch(ratio)


def _pace(sizes: Sizes, steps: float) -> float:
    """Steps that schedules advance per optimizer step, in an epoch of ``steps`` optimizer steps.

    Where the data have no known end, it is the ratio of the sizes.
    """
    at_start = sizes.epoch_steps
    if at_start is not None and math.isfinite(at_start) and math.isfinite(steps):
        return at_start / steps
    return sizes.current.global_size / sizes.start.global_size


def _not_held(too_large: BatchPlan, now: BatchPlan) -> str:
    tried = f"memory does not hold {too_large}, so training continues with {now}"
    return f"{tried}, and no micro-batch exceeds {now.local_size} from here on."


def _after_jump(rate_factor: float) -> str:
    lowered = f"learning-rate factor {rate_factor:.3g}"
    return f"the loss jumped: {lowered}, and no growth for {REST} optimizer steps"


def _another_start(before: BatchPlan, now: BatchPlan) -> str:
    began = f"was adapted from a start of {before}, and this run begins with {now}"
    return f"the batch size {began}. It starts from there again."
