"""One decision: from a measurement to the plan that comes next, and what the user reads of it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from lightning_noise.adapt.actions import Action, Say, SetRateFactor
from lightning_noise.adapt.adaptation_state import Change, Mark, Sizes, State
from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.learning_rate import learning_rate_factor
from lightning_noise.adapt.policy import LEAST_FOR_DECISION, Decision, checked
from lightning_noise.adapt.policy_in_run import starting_from, trusting
from lightning_noise.adapt.run_policy import Left, Situation, in_situation
from lightning_noise.adapt.size_plan import Bounds, plan_for, plan_within_epoch
from lightning_noise.core.estimate import NoiseEstimate

Decided = tuple[State, list[Action]]


class Measurement(NamedTuple):
    """What has been measured when an event happens; the same on all ranks.

    Args:
        estimate: the noise scale that the policy uses, with its 99 % interval.
        global_size: of the latest steps, in the user's unit; ``None`` while none was measured.
        optimizer_steps: of the run.
        examples: used by all ranks.
        data_size: of a finite data set, some of whose examples have been used again.
        noise_scale: for the history; ``None`` where it is not resolved.
    """

    estimate: NoiseEstimate
    global_size: float | None
    optimizer_steps: int
    examples: float
    data_size: float | None
    noise_scale: float | None

    @property
    def mark(self) -> Mark:
        """The moment of the measurement."""
        return Mark(self.optimizer_steps, self.examples)


class Limits(NamedTuple):
    """What a host allows when a decision is taken.

    Args:
        bounds: of the loaders.
        alpha: exponent of the "optimal" rule for the learning rate.
        max_epochs: epochs of the training; infinite where it has no such end.
        steps_left: optimizer steps until training ends; infinite where it has no such end.
        resizes_inside: whether the loaders can change their batch size in the middle of an epoch;
            else only the accumulation changes there.
        may_rest: whether steps may go without being measured; not where the user has said how often
            to measure.
    """

    bounds: Bounds = Bounds()
    alpha: float = 0.5
    max_epochs: float = math.inf
    steps_left: float = math.inf
    resizes_inside: bool = False
    may_rest: bool = False


class Decisions(NamedTuple):
    """Asks the policy, fits its answer to the bounds and takes the factor on the learning rate.

    Pure: a state goes in, and the next one comes out with the actions.

    Args:
        settings: how to adapt.
        unit: what is measured, in words.
    """

    settings: AdaptiveBatchSize
    unit: str

    def size_in_use(self, sizes: Sizes | None, measured_size: float) -> float:
        """The current size in the user's unit: as planned where that is examples, else measured."""
        if sizes is None or self.unit != "examples":
            return measured_size
        return sizes.current.global_size

    def take(
        self,
        state: State,
        measured: Measurement,
        limits: Limits,
        *,
        within_epoch: bool = False,
    ) -> Decided:
        """Decides on the next global size; a decision that was not yet applied is dropped.

        Raises:
            TypeError, ValueError: the policy or the rule for the learning rate gave a wrong answer.
        """
        sizes = state.sizes
        if sizes is not None:
            sizes = sizes._replace(following=None)
        state = state._replace(sizes=sizes, decided_at=measured.optimizer_steps)
        if measured.global_size is None:
            return state, []
        size = self.size_in_use(sizes, measured.global_size)
        if sizes is None:
            return self._advise(state, measured, size, limits.alpha)
        actions: list[Action] = []
        # after the last step a factor would change nothing but the verdict, and not that of a run
        # that is resumed from there
        if not _too_late(state.epoch, limits, within_epoch=within_epoch):
            state, actions = self._refresh(state, sizes, measured, size, limits.alpha)
        state, more = self._change(
            state,
            state.sizes or sizes,
            measured,
            size,
            limits,
            within_epoch=within_epoch,
        )
        return state, [*actions, *more]

    def _refresh(
        self,
        state: State,
        sizes: Sizes,
        measured: Measurement,
        size: float,
        alpha: float,
    ) -> Decided:
        """Takes the factor on the learning rate anew, from the latest noise scale."""
        estimate = measured.estimate
        at_start = sizes.current.global_size == sizes.start.global_size
        if at_start or estimate.low is None or estimate.n_eff < LEAST_FOR_DECISION:
            return state, []
        start = size * sizes.start.global_size / sizes.current.global_size
        rate_factor = self._rate_factor(start, size, estimate, alpha)
        if rate_factor == sizes.rate_factor:
            return state, []
        state = state._replace(sizes=sizes._replace(rate_factor=rate_factor))
        return state, [SetRateFactor(state.rate_factor)]

    def _advise(self, state: State, measured: Measurement, size: float, alpha: float) -> Decided:
        """Reports a decision that differs from the last one; nothing is planned."""
        situation = Situation(size, measured.examples, data_size=measured.data_size)
        decision = self._ask(measured, size, situation)
        rate_factor = self._rate_factor(
            size,
            decision.global_size,
            measured.estimate,
            alpha,
        )
        advised = state._replace(decided=float(decision.global_size))
        if advised.decided == state.decided:
            return advised, []
        change = f"global size {size:.0f}"
        if decision.global_size != round(size):
            factor = f"learning-rate factor {rate_factor:.3g}"
            change = f"{change} → {decision.global_size}, {factor}"
        return advised, [Say(f"advice: {change}; {decision.reason}")]

    def _change(
        self,
        state: State,
        sizes: Sizes,
        measured: Measurement,
        size: float,
        limits: Limits,
        *,
        within_epoch: bool,
    ) -> Decided:
        """Plans the size that was decided, and reports it if training lasts long enough."""
        unit = size / sizes.current.global_size  # units per example of the loader
        start = sizes.start.global_size * unit
        find_plan = plan_for
        if within_epoch and not limits.resizes_inside:
            find_plan = plan_within_epoch
        twice, _ = find_plan(
            2 * sizes.current.global_size,
            sizes.current,
            sizes.start,
            limits.bounds,
        )
        situation = Situation(
            start=start,
            examples=measured.examples,
            times=state.times.scaled(unit),
            left=_in_units(state.left, unit),
            accumulates=twice.accumulation > sizes.current.accumulation,
            data_size=measured.data_size,
            rate_ratio=self._rate_ratio(start, measured.estimate, limits.alpha),
        )
        decision = self._ask(measured, size, situation)
        if decision.global_size == round(size):
            return state._replace(decided=size), []
        if decision.global_size > size and state.guard.rests > 0:
            return state._replace(decided=size), []
        wanted = decision.global_size / unit
        plan, note = find_plan(
            wanted,
            sizes.current,
            sizes.start,
            limits.bounds,
        )
        if plan == sizes.current:
            return state._replace(decided=size), []
        decided = plan.global_size * unit
        rate_factor = self._rate_factor(
            start,
            decided,
            measured.estimate,
            limits.alpha,
        )
        left = state.left
        if decided < size:
            noise_scale = measured.estimate.noise_scale or measured.estimate.low
            left = Left(sizes.current.global_size, noise_scale or 0.0)
        sizes = sizes._replace(following=Change(plan, rate_factor))
        state = state._replace(sizes=sizes, decided=decided, left=left)
        if _too_late(state.epoch, limits, within_epoch=within_epoch):
            return state, []
        when = f"from epoch {state.epoch + 1} on"
        if within_epoch:
            when = "within this epoch"
        parts = str(plan)
        if note:
            parts += f"; {note}"
        change = f"global size {size:.0f} → {decided:.0f} {when} ({parts})"
        factor = f"learning-rate factor {rate_factor:.3g}"
        return state, [Say(f"{change}, {factor}; {decision.reason}")]

    def _ask(self, measured: Measurement, size: float, situation: Situation) -> Decision:
        policy = starting_from(self.settings.rule, situation.start)
        policy = in_situation(trusting(policy, measured.data_size), situation)
        return checked(policy(measured.estimate, size))

    def _rate_ratio(
        self, start: float, estimate: NoiseEstimate, alpha: float
    ) -> Callable[[float, float], float] | None:
        """By which the learning rate changes from a size to another; see :class:`Situation`."""
        if estimate.low is None:
            return None

        def ratio(old: float, new: float) -> float:
            before = 1.0
            if old != start:  # a rule of the user's need not know a change to the same size
                before = self._rate_factor(start, old, estimate, alpha)
            return self._rate_factor(start, new, estimate, alpha) / before

        return ratio

    def _rate_factor(self, old: float, new: float, estimate: NoiseEstimate, alpha: float) -> float:
        return learning_rate_factor(
            self.settings.learning_rate,
            old,
            new,
            estimate,
            alpha=alpha,
        )


def _in_units(left: Left | None, unit: float) -> Left | None:
    if left is None:
        return None
    return left._replace(global_size=left.global_size * unit)


def _too_late(epoch: int, limits: Limits, *, within_epoch: bool) -> bool:
    """Whether training ends before a decision can take effect."""
    last_epoch = epoch + 1 >= limits.max_epochs
    return limits.steps_left <= 0 or (last_epoch and not within_epoch)
