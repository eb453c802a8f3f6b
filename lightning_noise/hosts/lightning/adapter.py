"""The flag: a policy's decisions, carried out between epochs, logged with their reasons, kept for verdict and checkpoint."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.adaptive_summary import Period, tell
from lightning_noise.adapt.learning_rate import learning_rate_factor
from lightning_noise.adapt.policy import Decision, starting_from, trusting
from lightning_noise.adapt.size_plan import Plan, plan_for, plan_within_epoch
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapting_refusals import cannot_adapt, refuse_adapting
from lightning_noise.hosts.lightning.broadcast_decision import Outcome, agree, checked
from lightning_noise.hosts.lightning.loaders import LoaderError, Resizer, bounds, local_size, training_loaders
from lightning_noise.hosts.lightning.measured import Measured
from lightning_noise.hosts.lightning.print_lines import print_lines
from lightning_noise.hosts.lightning.schedules import set_pace, step_counters
from lightning_noise.hosts.rate_factor import LearningRateFactor, alpha_for

STEPS_BETWEEN = 50  # optimizer steps between two decisions inside an epoch
CONFIDENCE = 0.99  # of the interval that decisions use; 95 % is for display


class Adapter:
    """Changes the batch size of a fit as a policy decides; the callback's hooks call its methods by the same order.

    ``current`` is in force, ``following`` is decided and comes into force when the next epoch begins. Sizes are planned in
    examples of the loader; the policy sees them in the unit that is measured, which ``batch_size_fn`` may have changed.
    """

    def __init__(self, settings: AdaptiveBatchSize, unit: str = "examples") -> None:
        self.settings = settings
        self._unit = unit
        self._resizer = Resizer()
        self._trainer: L.Trainer | None = None  # while a fit is open
        self._measured: Measured | None = None
        self._estimate: Callable[[float], NoiseEstimate] | None = None
        self._rate: LearningRateFactor | None = None
        self._own_accumulation = 1
        self.reset()

    def reset(self) -> None:
        """Forgets every decision, for a fit of another module."""
        self.start: Plan | None = None
        self.current: Plan | None = None
        self.following: Plan | None = None
        self.factor = 1.0
        self._following_factor = 1.0
        self.decided: float | None = None  # the last decision, in the user's unit
        self._decided_at = 0  # optimizer steps
        self._epoch_steps: float | None = None  # optimizer steps of an epoch at the starting size
        self._epoch = 0  # the last one begun; the trainer's own number is ahead where the end of one is made up for
        self._mark: tuple[int, float] | None = None  # optimizer steps and examples at the start of the present period
        self.history: list[Period] = []

    # ---- the life of a fit ----------------------------------------------------------------------------------------------

    @property
    def changes(self) -> bool:
        """Whether decisions are carried out."""
        return not self.settings.advise_only

    def open(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        measured: Measured,
        *,
        forget: bool,
        estimate: Callable[[float], NoiseEstimate] | None = None,
    ) -> None:
        """At the start of a fit: refuses what cannot adapt, takes hold of loaders and learning rate, restores a saved size.

        ``forget``: this is a fit of another module, without a checkpoint. ``estimate``: confidence → the noise scale that the
        policy goes by; ``None``: B_simple.

        Raises:
            MisconfigurationException: names the set-up, the reason and the way out.
        """
        refuse_adapting(trainer, module, advise_only=not self.changes)
        self._measured, self._estimate = measured, estimate
        if forget:
            self.reset()
        if not self.changes:
            return
        self._trainer, self._own_accumulation = trainer, trainer.accumulate_grad_batches
        self._resizer.install(trainer)
        self._rate = LearningRateFactor(trainer.optimizers[0])
        self._restore_sizes()
        for consequence in step_counters(trainer):
            rank_zero_warn(f"GradientNoiseScale: {consequence}")
        if self.settings.learning_rate == "optimal":
            rank_zero_info(f"GradientNoiseScale: learning_rate='optimal', {alpha_for(trainer.optimizers[0]).reason}.")

    def _restore_sizes(self) -> None:
        """Not earlier than here: ``configure_optimizers`` has then seen the loaders of the start, as in the first run."""
        planned = self.following or self.current
        if self._trainer is None or self._rate is None or self.start is None or self.current is None or planned is None:
            return
        self._trainer.accumulate_grad_batches = self.current.accumulation
        self._rate.factor = self.factor
        self._resizer.factor = Fraction(planned.local_size, self.start.local_size)

    def check(self, trainer: L.Trainer) -> None:
        """The loaders are there: notes the sizes of the start, or compares them with those of a checkpoint.

        Raises:
            MisconfigurationException: a loader cannot be resized, or is above ``max_local_size``, also by a checkpoint.
        """
        if self._mark is None:
            self._mark = (self._running.optimizer_steps, self._running.examples)
        if not self.changes:
            return
        try:
            loaders = training_loaders(trainer)
        except LoaderError as error:
            raise cannot_adapt(str(error)) from error
        own = self._resizer.original_size(loaders[0])
        most = self.settings.max_local_size
        used = max(own, *(plan.local_size for plan in (self.current, self.following) if plan is not None), 0)
        if most is not None and used > most:
            raise cannot_adapt(f"max_local_size={most} is below the loader's batch size of {used}. Give a larger one.")
        self._compare(trainer, Plan(own, self._own_accumulation, trainer.world_size), local_size(loaders[0]))

    def _compare(self, trainer: L.Trainer, own: Plan, loaded: int) -> None:
        if self.start is not None and self.start != own:
            rank_zero_warn(
                f"GradientNoiseScale: the batch size was adapted from a start of {self.start}, and this run begins with {own}. "
                "It starts from there again."
            )
            self.start, self.following, self.factor, self._resizer.factor = None, None, 1.0, Fraction(1)
            self._running.resized()
        if self.start is None:
            self.start = self.current = own
            self._epoch_steps = None
            self._following_factor = self.factor
            self._restore_sizes()
        if loaded != (self.following or self.current or own).local_size:
            trainer_facts.forget_training_loaders(trainer)

    def begin_epoch(self, trainer: L.Trainer) -> None:
        """Brings the following plan into force; its loaders have just been prepared."""
        self._epoch = trainer.current_epoch
        self._resizer.settle()
        if not self.changes:
            return
        if self.following is not None:
            self._bring_into_force(trainer, self.following)
        if self._epoch_steps is None and self.current == self.start:
            self._epoch_steps = trainer_facts.steps_in_epoch(trainer)
        set_pace(trainer, self._pace(self._epoch_steps or math.inf, trainer_facts.steps_in_epoch(trainer)))

    def _pace(self, at_start: float, now: float) -> float:
        """Steps of an epoch at the start for one now; from the sizes where the data have no known end."""
        if math.isfinite(at_start) and math.isfinite(now):
            return at_start / now
        return self.current.global_size / self.start.global_size if self.current is not None and self.start is not None else 1.0

    def _bring_into_force(self, trainer: L.Trainer, plan: Plan) -> None:
        self.current, self.following, self.factor = plan, None, self._following_factor
        trainer.accumulate_grad_batches = plan.accumulation
        if self._rate is not None:
            self._rate.factor = self.factor
        self._running.resized()

    def close(self) -> None:
        """Gives the trainer and the loaders back as they were; may be called twice."""
        self._measured = None
        self._resizer.remove()
        if self._trainer is not None:
            self._trainer.accumulate_grad_batches = self._own_accumulation
            self._trainer = None
        if self._rate is not None:
            self._rate.close()
            self._rate = None

    @property
    def _running(self) -> Measured:
        if self._measured is None:
            raise RuntimeError("GradientNoiseScale: a hook was called outside of fit; on_fit_start was skipped.")
        return self._measured

    # ---- decisions ------------------------------------------------------------------------------------------------------

    def end_epoch(self, trainer: L.Trainer) -> None:
        """Decides once all steps of the epoch have been read, and has the loaders prepared anew where they change."""
        self._close_period()
        self._decide(trainer, within_epoch=False)
        if self.following is not None and self.current is not None and self.start is not None:
            self._resizer.factor = Fraction(self.following.local_size, self.start.local_size)
            if self.following.local_size != self.current.local_size:
                self._resizer.reload_next_epoch()

    def end_training(self) -> None:
        """Closes the last period of a run that ended without a further decision."""
        self._close_period()

    def after_batch(self, trainer: L.Trainer) -> None:
        """Inside an epoch: decides now and then, and changes the accumulation where a window of both sizes ends."""
        if not self.settings.within_epoch or trainer.is_last_batch:
            return
        if self.following is None and self._running.optimizer_steps - self._decided_at >= STEPS_BETWEEN:
            self._running.read()
            self._decide(trainer, within_epoch=True)
        done = trainer_facts.batches_done(trainer)
        if self.following is not None and all(done % plan.accumulation == 0 for plan in (self.current, self.following) if plan):
            self._running.read()
            self._close_period()
            self._bring_into_force(trainer, self.following)
            set_pace(trainer, self._pace(math.inf, math.inf))

    def _close_period(self) -> None:
        size, (steps, examples) = self._running.global_size, self._mark or (0, 0.0)
        self._mark = (self._running.optimizer_steps, self._running.examples)
        if size is not None and self._mark[0] > steps:
            used = (self._mark[0] - steps, self._mark[1] - examples)
            self.history.append(Period(self._epoch, self._in_use(size), *used, self._running.b_simple))

    def _in_use(self, measured: float) -> float:
        """The size in use in the user's unit: as planned where that is examples, else as measured."""
        return self.current.global_size if self.current is not None and self._unit == "examples" else measured

    def _decide(self, trainer: L.Trainer, *, within_epoch: bool) -> None:
        self.following, self._decided_at = None, self._running.optimizer_steps
        if self._running.global_size is None:
            return
        texts: list[str] = []
        outcome = agree(trainer, lambda: self._outcome(trainer, within_epoch, texts))
        before, self.decided = self.decided, outcome.decided
        if outcome.plan is not None and outcome.plan != self.current:
            self.following, self._following_factor = outcome.plan, outcome.factor
        news = before != self.decided if not self.changes else self.following is not None and not _ends(trainer, within_epoch)
        if trainer.is_global_zero and news:
            print_lines(trainer, f"GradientNoiseScale: {texts[0]}")

    def _outcome(self, trainer: L.Trainer, within_epoch: bool, texts: list[str]) -> Outcome:
        """On rank 0. ``texts`` receives what is printed."""
        estimate = self._estimate(CONFIDENCE)  # type: ignore[misc]
        size = self._in_use(self._running.global_size or 0.0)
        unit = size / self.current.global_size if self.current is not None else 1.0  # units an example of the loader
        start = self.start.global_size * unit if self.start is not None else size
        policy = trusting(starting_from(self.settings.rule, start), self._running.data_size)
        decision = checked(policy(estimate, size))
        rule, alpha = self.settings.learning_rate, alpha_for(trainer.optimizers[0]).value
        if self.current is None or self.start is None:
            factor = learning_rate_factor(rule, size, decision.global_size, estimate, alpha=alpha)
            texts.append(_advice(size, decision, factor))
            return Outcome(None, factor, float(decision.global_size))
        if decision.global_size == round(size):
            return Outcome(self.current, self.factor, size)
        loaders = training_loaders(trainer)
        sizes = [self._resizer.original_size(loader) for loader in loaders]
        fit = plan_within_epoch if within_epoch else plan_for
        limits = bounds(trainer, loaders, sizes, self.settings.max_local_size)
        plan, note = fit(decision.global_size / unit, self.current, self.start, limits)
        if plan == self.current:
            return Outcome(plan, self.factor, size)
        factor = learning_rate_factor(rule, start, plan.global_size * unit, estimate, alpha=alpha)
        when = "as soon as windows align" if within_epoch else f"from epoch {self._epoch + 1} on"
        texts.append(
            f"global size {size:.0f} → {plan.global_size * unit:.0f} {when} ({plan}{f'; {note}' if note else ''}), "
            f"learning-rate factor {factor:.3g}; {decision.reason}"
        )
        return Outcome(plan, factor, plan.global_size * unit)

    # ---- what is told ---------------------------------------------------------------------------------------------------

    def values(self) -> dict[str, float]:
        """What is logged beside the estimates: the factor in force and the last decision."""
        decided = {} if self.decided is None else {"noise_scale/decided_global_size": self.decided}
        return {"noise_scale/learning_rate_factor": self.factor, **decided} if self.changes else decided

    def story(self) -> list[str]:
        """Lines of the verdict."""
        if self.changes:
            return tell(self.history, self.factor, self._unit)
        if self.decided is None:
            return []
        return [f"advice at the end (nothing was changed): a global size of {self.decided:.0f} {self._unit}"]

    # ---- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything decided, as plain Python values; the same on all ranks."""
        plans = {"start": self.start, "current": self.current, "following": self.following}
        return {
            "version": 1,
            **{name: None if plan is None else list(plan) for name, plan in plans.items()},
            "factors": [self.factor, self._following_factor],
            "decided": self.decided,
            "decided_at": self._decided_at,
            "epoch_steps": self._epoch_steps,
            "epoch": self._epoch,
            "mark": None if self._mark is None else list(self._mark),
            "history": [list(period) for period in self.history],
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restores :meth:`state_dict`, ``None`` from a run that only measured. In force at once where a fit is open."""
        if state is None:
            self.reset()
            return
        plans = {name: None if state[name] is None else Plan(*state[name]) for name in ("start", "current", "following")}
        if self.changes:  # advice is about the size that this run has
            self.start, self.current, self.following = plans["start"], plans["current"], plans["following"]
            self.factor, self._following_factor = state["factors"]
        self.decided, self._decided_at, self._epoch_steps = state["decided"], state["decided_at"], state["epoch_steps"]
        self._epoch = state.get("epoch", 0)
        self._mark = None if state["mark"] is None else (state["mark"][0], state["mark"][1])
        self.history = [Period(*period) for period in state["history"]]
        self._restore_sizes()

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "unit": self._unit, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"], state["unit"])  # type: ignore[misc]
        self.load_state_dict(state["state"])


def _ends(trainer: L.Trainer, within_epoch: bool) -> bool:
    """Whether training ends before a decision can come into force, as far as the trainer was told when to end."""
    last_epoch = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return (last_epoch and not within_epoch) or 0 <= trainer.max_steps <= trainer.global_step


def _advice(size: float, decision: Decision, factor: float) -> str:
    if decision.global_size == round(size):
        return f"advice: global size {size:.0f}; {decision.reason}"
    return f"advice: global size {size:.0f} → {decision.global_size}, learning-rate factor {factor:.3g}; {decision.reason}"
