"""What a fit reports of its measurement: log values, pictures and verdicts."""

from collections.abc import Mapping

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from lightning_noise.adapt.learning_rate import alpha_for
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapting import Adapting
from lightning_noise.hosts.lightning.collected_verdict import verdict_of
from lightning_noise.hosts.lightning.facts_file import has_folder, write_facts
from lightning_noise.hosts.lightning.loggers import publish
from lightning_noise.hosts.lightning.pictures import Pictures
from lightning_noise.hosts.lightning.print_lines import print_lines
from lightning_noise.hosts.lightning.settings import Settings
from lightning_noise.hosts.lightning.stopping import Measuring
from lightning_noise.hosts.rate_factor import optimizer_kinds
from lightning_noise.measure.session import Session
from lightning_noise.measure.track import Track
from lightning_noise.say.doubts import twins_text
from lightning_noise.say.log_keys import InUse, curvature_values, optimizer_values
from lightning_noise.say.run_facts import RunFacts
from lightning_noise.say.verdict import Verdict


class Reporting:
    """Brings what a session has measured to loggers, progress bar and terminal.

    Args:
        trainer, module: of the fit.
        session: the measurement.
        settings: the callback's arguments.
        optimizers: by name.
        adapting: changes the batch size, or does nothing.
        measuring: whether and why measuring has stopped.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        session: Session,
        settings: Settings,
        optimizers: Mapping[str, Optimizer],
        adapting: Adapting,
        measuring: Measuring,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._session = session
        self._settings = settings
        self._optimizers = optimizers
        self._adapting = adapting
        self._measuring = measuring
        self._pictures = Pictures(trainer, settings.figures)
        self._twins_reported = False
        self._published = 0  # measured steps
        self._facts: dict[str, RunFacts] = {}

    @property
    def has_news(self) -> bool:
        """Whether steps have been read since values were logged."""
        return self._session.steps_read != self._published

    def publish(self, step: int) -> None:
        """Reads, and passes what can be determined to the loggers; ``step`` is on their axis."""
        session = self._session
        session.read()
        twins = session.twins
        if twins is not None and not self._twins_reported:
            self._twins_reported = True
            rank_zero_warn(f"GradientNoiseScale: {twins_text(twins)}")
        self._published = session.steps_read
        values: dict[str, float] = {}
        keys = session.readings.averages
        estimates = {key: session.estimate(key) for key in keys}
        for track in session.tracks:
            of_optimizer = optimizer_values(estimates, track.name, self._in_use(track))
            if of_optimizer:
                self._pictures.add(step, self._published, of_optimizer, track.name)
            values |= of_optimizer
        values |= curvature_values(session.curvatures)
        if not values:
            return
        values |= self._adapting.values()
        publish(
            self._trainer,
            values,
            step,
            optimizers=list(self._optimizers),
            prog_bar=self._settings.prog_bar,
        )
        if not self._facts:
            self._facts = self._known_facts()
            write_facts(self._trainer, self._facts)

    def _known_facts(self) -> dict[str, RunFacts]:
        facts = {}
        for name, optimizer in self._optimizers.items():
            kinds = optimizer_kinds(optimizer)
            facts[name] = RunFacts(kinds[0], alpha_for(kinds).value, self._settings.unit)
        return facts

    def _write_verdicts(self, verdicts: list[Verdict], step: int) -> None:
        """Beside the logs; ``report`` finds there what scalars do not say."""
        facts = {}
        for one in verdicts:
            known = self._facts[one.optimizer]
            facts[one.optimizer] = known._replace(verdict=str(one), step=step)
        write_facts(self._trainer, facts)

    def show_pictures(self, *, last: bool) -> None:
        """Passes figure and verdict to the loggers, at the end of an epoch or fit.

        No collective: every rank may call it, and rank 0 alone draws.
        """
        measured = self._session.steps_read
        step = max(trainer_facts.log_index(self._trainer) - 1, 0)
        if self._facts and has_folder(self._trainer):
            self._write_verdicts(self.verdicts(), step)
        if self._pictures.are_due(measured, last=last):
            self._pictures.show(self.verdicts(), step, measured)

    def _in_use(self, track: Track) -> InUse:
        rate = trainer_facts.learning_rate(self._optimizers[track.name])
        tally = self._session.readings.tallies[track.name]
        return InUse(rate * self._adapting.factor, tally.global_size)

    def verdicts(self) -> list[Verdict]:
        """One per optimizer."""
        return [self._verdict(track) for track in self._session.tracks]

    def _verdict(self, track: Track) -> Verdict:
        doubts = trainer_facts.cautions(self._trainer, self._module)
        kinds = optimizer_kinds(self._optimizers[track.name])
        return verdict_of(
            self._session,
            track,
            learning_rate=self._in_use(track).learning_rate,
            rate_exponent=alpha_for(kinds).value,
            unit=self._settings.unit,
            story=self._adapting.story(),
            warnings=(*self._measuring.warnings, *doubts),
            seconds=self._seconds(),
        )

    def _seconds(self) -> dict[float, float]:
        """Step times are kept by the examples of the loader, so other units have none."""
        if self._settings.batch_size_fn is not None:
            return {}
        return self._adapting.step_times().medians()

    def say_verdicts(self) -> None:
        """Prints the verdict on rank 0, unless the callback was told not to."""
        if self._settings.verbose and self._trainer.is_global_zero:
            for verdict in self.verdicts():
                print_lines(self._trainer, str(verdict))
