"""One fit under measurement: what Lightning's hooks mean for a session, an adapter, loggers and the
verdict.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapting import Adapting
from lightning_noise.hosts.lightning.loader_facts import SizeCheck, order_cautions
from lightning_noise.hosts.lightning.measured import MeasuredBySession
from lightning_noise.hosts.lightning.refusals import refuse
from lightning_noise.hosts.lightning.reporting import Reporting
from lightning_noise.hosts.lightning.reword import refusing
from lightning_noise.hosts.lightning.settings import Settings
from lightning_noise.hosts.lightning.sharded import named_parameters, outermost
from lightning_noise.hosts.lightning.split import Split
from lightning_noise.hosts.lightning.stopping import Measuring
from lightning_noise.measure.session import Session
from lightning_noise.measure.track import Track
from lightning_noise.probes.catalogue import AUTO
from lightning_noise.say.verdict import Verdict

UNREAD_STEPS = 50  # read at least this often where the trainer logs more rarely or never


class Fit:
    """What is measured in one fit, and what has been reported about it.

    Args:
        trainer, module: of the fit.
        settings: the callback's arguments.
        adapting: changes the batch size, or does nothing.
        split: of the batches, or none.

    Raises:
        MisconfigurationException: the set-up cannot give a right number; with the fix.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        settings: Settings,
        adapting: Adapting,
        split: Split,
    ) -> None:
        refuse(trainer, module)
        self.trainer = trainer
        self.module = module
        self._settings = settings
        self._adapting = adapting
        self._split = split
        names = trainer_facts.optimizer_names(trainer)
        self._optimizers = dict(zip(names, trainer.optimizers, strict=True))
        with refusing(trainer):
            self.session = Session(
                settings.what,
                trainer_facts.setup_of(trainer),
                named_parameters(trainer, module),
                self._optimizers,
                outermost(trainer, module),
                warn=lambda text: rank_zero_warn(f"GradientNoiseScale: {text}"),
            )
        for track in self.session.tracks:
            _announce_probe(track)
        self._measuring = Measuring(
            trainer,
            self.session,
            may_stop=settings.probe == AUTO,
            adapts=settings.adaptive is not None,
        )
        self._reporting = Reporting(
            trainer,
            module,
            self.session,
            settings,
            self._optimizers,
            adapting,
            self._measuring,
        )
        self._size_check = SizeCheck(trainer, given=settings.batch_size_fn is not None)
        self._epoch_whole = False
        self._open_epoch: int | None = None  # begun and not ended

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Takes up what was measured before, and begins to watch."""
        if state:
            self.load_state_dict(state)
        self.session.watch()
        self._split.fit_starts([track.probe for track in self.session.tracks])
        self._adapting.open(
            self.trainer,
            self.module,
            MeasuredBySession(self.session, self.batch_starts, self._batch_done),
            forget=not state,
            estimate=self.driving_estimate,
        )

    def driving_estimate(self, confidence: float) -> NoiseEstimate:
        """What a policy follows: the noise scale in the first geometry named."""
        first = Key(self._settings.geometries[0])
        return self.session.estimate(first, confidence)

    @property
    def is_running(self) -> bool:
        """Whether the trainer is in the middle of this fit."""
        return self.trainer.state.status == "running"

    # Epochs

    def train_starts(self) -> None:
        """Compares the loaders, which exist by now, with the batch size of a checkpoint."""
        for caution in order_cautions(self.trainer):
            rank_zero_warn(f"GradientNoiseScale: {caution}.")
        # resumed from the last checkpoint of a finished fit
        if trainer_facts.training_is_over(self.trainer):
            if self._open_epoch is not None:
                self._adapting.end_training()
            self._open_epoch = None
            return
        self._split.train_starts(self.trainer)
        self._adapting.check(self.trainer)
        unended = self._open_epoch
        if unended is not None and unended < self.trainer.current_epoch:
            self._catch_up()

    def _catch_up(self) -> None:
        """For a checkpoint that was saved after an epoch's last batch: Lightning calls neither the
        hook at the end of that epoch nor the one at the start of the next.
        """
        self.epoch_ends()
        self._adapting.prepare_loaders(self.trainer)
        self.epoch_starts()

    def epoch_starts(self) -> None:
        """Notes the size of a finite data set after a complete epoch, and looks for parameters that
        were frozen or unfrozen since.
        """
        data_seen = self._epoch_whole and trainer_facts.finite_data(self.trainer)
        self.session.next_epoch(whole=data_seen)
        self._epoch_whole = False
        self._open_epoch = self.trainer.current_epoch
        self._split.epoch_starts()
        self._adapting.begin_epoch(self.trainer)

    def epoch_ends(self) -> None:
        """Decides on the batch size, and logs once more, so that a fit shorter than the log
        interval logs its noise scale too.
        """
        self.session.read()
        self._epoch_whole = trainer_facts.epoch_is_whole(self.trainer)
        self._open_epoch = None
        if self._measuring.is_over:
            return
        self._adapting.end_epoch(self.trainer)
        if self._reporting.has_news or self._adapting.decides:
            # where Lightning puts the metrics of the epoch
            last_step = trainer_facts.log_index(self.trainer) - 1
            self._reporting.publish(last_step)
        self._reporting.show_pictures(last=False)

    # Batches

    def batch_starts(self, batch: Any) -> None:
        """Counts the examples of the batch; its forward pass comes next."""
        self._split.batch_starts()
        if self._split.factor == 0.0:  # its examples come again in this step
            return
        accumulation = self.trainer.accumulate_grad_batches
        self._measuring.event(
            lambda: self.session.batch(batch, accumulation=accumulation, share=self._split.factor)
        )
        caution = self._size_check.caution(self.session.size)
        if caution:
            rank_zero_warn(f"GradientNoiseScale: {caution}.")
            self.session.tracks[0].notes.add(caution)

    def before_backward(self, loss: Tensor) -> None:
        """The graph of the loss exists, and its backward pass comes next."""
        if self._split.factor == 0.0:  # under a sharded strategy; see Split
            return
        self._measuring.event(lambda: self.session.backward(loss, loss_scale=self._loss_scale()))

    def after_backward(self) -> None:
        """After the last micro-batch the gradient is read, still scaled and not yet clipped."""
        if self._split.factor == 0.0:
            return
        self._measuring.event(self._backward_done)

    def _backward_done(self) -> None:
        last = trainer_facts.ends_step(self.trainer)
        self.session.backward_done(last=last, loss_scale=self._loss_scale())

    def _loss_scale(self) -> Tensor | None:
        return trainer_facts.loss_scale(self.trainer, self.module.device)

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        self._measuring.event(lambda: self.session.stepping(optimizer))

    def validation_starts(self) -> None:
        """The time until the next step is not that of a step."""
        self._adapting.interrupt()

    def batch_ends(self, outputs: object) -> None:
        """Reads and logs at the trainer's interval."""
        self._adapting.watch_batch(self.trainer, outputs)
        self._batch_done()
        if self._measuring.is_over:
            self._adapting.after_batch(self.trainer, decides=False)
            return
        if trainer_facts.logs_now(self.trainer):
            self._reporting.publish(trainer_facts.log_index(self.trainer))
        elif self.session.pending >= UNREAD_STEPS:
            self.session.read()
        self._adapting.after_batch(self.trainer)

    def _batch_done(self) -> None:
        self._measuring.event(self.session.batch_done)

    def verdicts(self) -> list[Verdict]:
        """One per optimizer."""
        return self._reporting.verdicts()

    def ends(self) -> None:
        """The fit has ended well: shows the whole run, and prints the verdict."""
        self.session.read()
        self._reporting.show_pictures(last=True)
        self.close()
        self._reporting.say_verdicts()

    # The end

    def close(self) -> None:
        """Removes every hook and restores the trainer and the loaders; may be called twice."""
        self._adapting.close()
        self.session.close()

    def fail(self, error: BaseException) -> None:
        """After an error: removes every hook. What was measured stays."""
        self.close()
        if self.trainer.world_size > 1:
            self.session.forget_unread()  # reading is a collective, and another rank may be gone
        else:
            # a device that failed cannot be read; the error to show is the one that ended the fit
            with suppress(RuntimeError):
                self.session.read()
        if isinstance(error, KeyboardInterrupt):
            self._reporting.say_verdicts()

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values; reads what waits: call it on all ranks."""
        return {
            "session": self.session.state_dict(),
            "epoch_whole": self._epoch_whole,
            "open_epoch": self._open_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self._epoch_whole = state["epoch_whole"]
        self._open_epoch = state["open_epoch"]
        inside_epoch = self._open_epoch is not None
        self.session.load_state_dict(state["session"], inside_epoch=inside_epoch)


def _announce_probe(track: Track) -> None:
    subject = "probe"
    if track.name:
        subject = f"probe of {track.name}"
    chosen = f"{track.probe.name}, because {track.offer.reason}"
    rank_zero_info(f"GradientNoiseScale: {subject} {chosen}.")
