"""The callback: Lightning's hooks translated into calls of the monitor."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.policy import BatchSizePolicy
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapter import adapting_by
from lightning_noise.hosts.lightning.batch_sizes import BatchSizes
from lightning_noise.hosts.lightning.checkpoint import VERSION, check_state, reading_checkpoint
from lightning_noise.hosts.lightning.curvature import CurvatureWatch, watch_curvature
from lightning_noise.hosts.lightning.findings import gather
from lightning_noise.hosts.lightning.loader_facts import loader_sizes, order_cautions, size_caution
from lightning_noise.hosts.lightning.loggers import curvature_values, log_values, publish
from lightning_noise.hosts.lightning.print_lines import print_lines
from lightning_noise.hosts.lightning.refusals import refuse
from lightning_noise.hosts.lightning.settings import Settings
from lightning_noise.hosts.lightning.tracks import Measured, measure_each, steps_of
from lightning_noise.hosts.lightning.two_packages import Callback, MisconfigurationException
from lightning_noise.measure.monitor import Monitor
from lightning_noise.measure.steps import CannotMeasureError, Steps
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.probe import Probe
from lightning_noise.say.verdict import Findings, twins_text, verdict

ONE_EXAMPLE = (
    "`GradientNoiseScale` needs two groups of gradients per step, but the batch holds one example and there is no "
    "accumulation. Use a batch_size of 2 or more, or Trainer(accumulate_grad_batches=2) or more."
)
NESTED = (
    "`GradientNoiseScale`: give the inner Trainer a callback of its own. This one measures another fit, which "
    "is still running, and one callback measures one fit at a time."
)
UNREAD_STEPS = 50  # read at least this often where the trainer logs more rarely or never


class GradientNoiseScale(Callback):
    """Measures how large a batch is worth it: the gradient noise scale B_simple = tr(Σ)/|G|², with an honest interval.

    Reads gradients only: weights, gradients and random state of the run stay what they would be without it. The value is logged
    under ``noise_scale/…`` through the trainer's loggers at its log interval, and a verdict is printed at the end of ``fit``.

    Args:
        probe: where the groups of gradients come from: "auto", "examples" (one device, one batch a step), "micro_batches"
            (gradient accumulation, plain DDP), "ranks" (strategy "ddp_noise" or one with NoiseStrategyMixin), or a Probe such
            as lightning_noise.Examples with arguments of its own.
        geometry: the metric M in gᵀMg, or a tuple of them: "euclidean" (measured in any case), "hessian" (B_noise, eps_max,
            dl_max; needs three micro-batches a step or a loss_fn), "gauss_newton" (needs a loss_fn), "optimizer". The first
            named is what an adaptive batch size goes by.
        every_n_steps: measures the first of every so many optimizer steps; None means every step, and every 100th for
            "hessian" and "gauss_newton".
        decay: exponential decay a measured step; the longest window is (1 + decay)/(1 − decay) steps.
        adaptive_batch_size: True lets the noise scale set the batch size between epochs; a BatchSizePolicy such as
            lightning_noise.ExchangeRate does so by its rule; an AdaptiveBatchSize has more settings.
        batch_size_fn: batch → number of examples (or tokens, nodes, …), where the length of the first tensor is not it. A
            function or its dotted path.
        per_layer: True also measures every module that owns parameters; a number n, the first n parts of their names.
        prog_bar: shows b_simple in the progress bar.
        loss_fn: (module, batch) → mean loss, or (loss, outputs) for "gauss_newton"; for curvatures where there are fewer than
            three micro-batches a step, or no double backward. A function or its dotted path.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
        MisconfigurationException: in ``on_fit_start``, where the set-up cannot give a right number; names the way out.

    Source: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv 1812.06162, appendix A.

    >>> GradientNoiseScale(decay=1.5)
    Traceback (most recent call last):
    ValueError: decay must lie strictly between 0 and 1, got 1.5. 0.99 averages about 200 steps.
    """

    def __init__(
        self,
        probe: Probe | str = "auto",  # in this order a command line takes the path of a class for what it is
        geometry: str | tuple[str, ...] = "euclidean",
        every_n_steps: int | None = None,
        decay: float = 0.99,
        adaptive_batch_size: bool | BatchSizePolicy | AdaptiveBatchSize = False,
        batch_size_fn: Callable[[Any], Any] | str | None = None,
        per_layer: bool | int = False,
        prog_bar: bool = False,
        loss_fn: Callable[[Any, Any], Any] | str | None = None,
    ) -> None:
        self.settings = Settings(
            probe=probe,
            geometry=geometry,
            every_n_steps=every_n_steps,
            decay=decay,
            adaptive_batch_size=adaptive_batch_size,
            batch_size_fn=batch_size_fn,
            per_layer=per_layer,
            prog_bar=prog_bar,
            loss_fn=loss_fn,
        )
        self._sizes = BatchSizes(batch_size_fn)
        self._adapting = adapting_by(self.settings.adaptive, self.settings.unit)
        self._state: dict[str, Any] | None = None  # restored, to be taken up at the start of the next fit
        self._measured: list[Measured] = []
        self._steps: Steps | None = None
        self._curvature: CurvatureWatch | None = None
        self._module: weakref.ref[L.LightningModule] | None = None
        self._trainer: weakref.ref[L.Trainer] | None = None  # of the latest fit
        self._rescan = False
        self._warned = False
        self._size_compared = False
        self._published = 0
        self._epoch_whole = False
        self._open_epoch: int | None = None  # begun and not ended

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints; the same for subclasses."""
        return "GradientNoiseScale"

    def estimate(self, key: Key = Key()) -> NoiseEstimate | None:
        """The estimate from all steps read so far in this process, in examples; ``None`` before the first ``fit``.

        With several optimizers each has its own: ``estimate(Key(optimizer="Adam-1"))``, named as in the log keys. Other
        geometries have theirs: ``estimate(Key("hessian"))``.
        A launcher that copies the callback into processes of its own (``ddp_spawn``, ``ddp_fork``, a notebook) leaves this one
        as it was; there ``trainer.callback_metrics``, the verdict and checkpoints hold what was measured.
        """
        if self._curvature is not None and key in map(Key, self._curvature.averages):
            return self._curvature.averages[key.geometry].estimate()
        for one in self._measured:
            if one.name == key.optimizer and key._replace(optimizer="") in one.monitor.readings.windows:
                return one.monitor.estimate(key._replace(optimizer=""))
        return None

    def trajectories(self) -> dict[Key, Trajectory]:
        """First, mean and last resolved value of every noise scale of the whole model; empty before the first ``fit``."""
        return {
            key._replace(optimizer=one.name): way
            for one in self._measured
            for key, way in one.monitor.readings.trajectories.items()
        }

    # ---- the life of a fit ----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses what cannot be right, chooses the probe and takes up earlier averages of the same module."""
        if self._steps is not None and not self._serves(trainer) and self._owner_runs():
            raise MisconfigurationException(NESTED)
        self._trainer = weakref.ref(trainer)
        refuse(trainer, pl_module)
        measured = measure_each(trainer, pl_module, self.settings)
        curvature = watch_curvature(trainer, pl_module, self.settings)
        for one in measured:
            of = f" of {one.name}" if one.name else ""
            rank_zero_info(f"GradientNoiseScale: probe{of} {one.choice.probe}, because {one.choice.reason}.")
        same_module = self._module is not None and self._module() is pl_module
        state = self._state or (self.state_dict() if same_module else None)
        self._module = weakref.ref(pl_module)
        self._measured, self._steps = measured, steps_of(trainer, pl_module, measured)
        self._curvature = curvature
        with reading_checkpoint(state):
            self._take_up(state)
        numbers = _Numbers(measured[0].monitor)
        self._adapting.open(trainer, pl_module, numbers, forget=not state, estimate=self._driving)

    def _serves(self, trainer: L.Trainer) -> bool:
        """Whether this callback measures the fit of ``trainer``, and not that of another one."""
        return self._trainer is None or self._trainer() is trainer

    def _owner_runs(self) -> bool:
        owner = self._trainer() if self._trainer is not None else None
        return owner is not None and owner.state.status == "running"

    def _driving(self, confidence: float) -> NoiseEstimate:
        """What a policy goes by: the noise scale in the first geometry named."""
        first = self.settings.geometries[0]
        if self._curvature is not None and first in self._curvature.averages:
            return self._curvature.averages[first].estimate(confidence)
        return self._measured[0].monitor.estimate(Key(first), confidence=confidence)

    def _take_up(self, state: dict[str, Any] | None) -> None:
        self._state, self._rescan, self._warned, self._sizes.known = None, True, False, False
        self._size_compared = False
        self._published, self._epoch_whole, self._open_epoch = 0, False, None
        if not state:
            return
        self._epoch_whole, self._open_epoch = state["epoch_whole"], state.get("open_epoch")
        if self._curvature is not None:
            self._curvature.load_state_dict(state.get("curvature", {}))
        for one in self._measured:
            if one.name in state["monitors"]:
                one.monitor.load_state_dict(state["monitors"][one.name])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares the loaders, which are there now, with the batch size that a checkpoint asks for."""
        for caution in order_cautions(trainer):
            rank_zero_warn(f"GradientNoiseScale: {caution}.")
        if trainer_facts.training_is_over(trainer):
            self._finish_epoch()
            return
        self._adapting.check(trainer)
        if self._open_epoch is not None and self._open_epoch < trainer.current_epoch:
            self._catch_up(trainer, pl_module)

    def _finish_epoch(self) -> None:
        """A checkpoint saved after the very last batch: there is no loader, and nothing left to decide."""
        if self._open_epoch is not None:
            self._adapting.end_training()
        self._open_epoch = None

    def _catch_up(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A checkpoint saved after an epoch's last batch: Lightning calls neither the hook that ends it nor the next one's."""
        self.on_train_epoch_end(trainer, pl_module)
        self._adapting.prepare_loaders(trainer)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the size of a finite data set once it has been seen whole, and looks for parameters (un)frozen since."""
        whole = self._epoch_whole and trainer_facts.finite_data(trainer)
        for one in self._measured:
            one.monitor.readings.next_epoch(whole=whole)
        self._epoch_whole, self._rescan, self._open_epoch = False, True, trainer.current_epoch
        self._adapting.begin_epoch(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the examples of the micro-batch, and tells a probe that watches forward passes that one begins."""
        if self._rescan:
            for one in self._measured:
                one.monitor.watch(trainer_facts.trained_parameters(pl_module, trainer.optimizers[one.place]))
            self._rescan = False
        first = not self._sizes.known
        self._sizes.count(batch)
        if first and not self._steps_read and self._one_example(trainer, batch):  # a resumed epoch may have one example left
            raise MisconfigurationException(ONE_EXAMPLE)
        self._compare_size(trainer)
        if self._curvature is not None:
            self._curvature.batch(trainer, pl_module, batch, self._sizes.size)
        self._running.batch()

    def _compare_size(self, trainer: L.Trainer) -> None:
        """Once per fit; the last batch of an epoch may be a short one."""
        if self._size_compared or self._sizes.size is None or trainer.is_last_batch:
            return
        self._size_compared = True
        caution = "" if self.settings.batch_size_fn else size_caution(self._sizes.size, loader_sizes(trainer))
        if caution:
            rank_zero_warn(f"GradientNoiseScale: {caution}.")
            self._measured[0].monitor.notes.add(caution)

    def _one_example(self, trainer: L.Trainer, batch: Any) -> bool:
        single = self._measured[0].choice.probe == Examples.name and trainer.lightning_module.automatic_optimization
        return single and trainer_facts.rows(batch) == 1 == trainer.accumulate_grad_batches

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Opens the gate of the probe, after curvatures have been taken: their gradients are not the step's."""
        if self._curvature is not None:
            self._curvature.before_backward(trainer, pl_module, loss)
        weight = 1 / trainer.accumulate_grad_batches
        self._running.begin(self._sizes.size, weight, self._sizes.rows, loss)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Closes the gate; after the last micro-batch reads the gradient, still scaled and not yet clipped."""
        if self._curvature is not None:
            self._curvature.after_backward(self._sizes.size)
        with _refusing():
            self._running.end(
                last=trainer_facts.ends_step(trainer), loss_scale=trainer_facts.loss_scale(trainer, pl_module.device)
            )

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Settles, where the module steps by itself, which backward passes the step consists of."""
        with _refusing():
            self._running.step(optimizer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Reads and logs at the trainer's interval."""
        self._running.rest()
        if trainer_facts.logs_now(trainer):
            self._publish(trainer, trainer_facts.log_index(trainer))
        elif any(one.monitor.pending >= UNREAD_STEPS for one in self._measured):
            self._flush()
        self._adapting.after_batch(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs once more, so that a run shorter than the log interval shows its number."""
        self._flush()
        self._epoch_whole, self._open_epoch = trainer_facts.epoch_is_whole(trainer), None
        self._adapting.end_epoch(trainer)
        if self._steps_read != self._published or self._adapting.decides:
            self._publish(trainer, trainer_facts.log_index(trainer) - 1)  # where Lightning puts the metrics of the epoch

    def _publish(self, trainer: L.Trainer, step: int) -> None:
        self._flush()
        twins = next((one.monitor.readings.twins for one in self._measured if one.monitor.readings.twins is not None), None)
        if twins is not None and not self._warned:
            self._warned = True
            rank_zero_warn(f"GradientNoiseScale: {twins_text(twins)}")
        self._published = self._steps_read
        values: dict[str, float] = {}
        for one in self._measured:
            values |= log_values(one.monitor, self._learning_rate(trainer, one), one.name)
        if self._curvature is not None:
            values |= curvature_values(self._curvature.averages)
        if values:
            values |= self._adapting.values()
            optimizers = [one.name for one in self._measured]
            publish(trainer, values, step, optimizers=optimizers, prog_bar=self.settings.prog_bar)

    def _learning_rate(self, trainer: L.Trainer, measured: Measured) -> float:
        """What the optimizer steps with."""
        rate = trainer_facts.learning_rate(trainer.optimizers[measured.place])
        return rate * self._adapting.factor

    def _flush(self) -> None:
        for one in self._measured:
            one.monitor.flush()
        if self._curvature is not None:
            self._curvature.flush(self._measured[0].monitor.device)

    @property
    def _steps_read(self) -> int:
        return sum(one.monitor.readings.steps for one in self._measured)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the verdict on rank 0."""
        self._flush()
        self._close()
        self._print_verdict(trainer, pl_module)

    def _print_verdict(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for one in self._measured:
                print_lines(trainer, verdict(self._findings(trainer, module, one)))

    def _findings(self, trainer: L.Trainer, module: L.LightningModule, measured: Measured) -> Findings:
        return gather(
            trainer,
            module,
            measured,
            learning_rate=self._learning_rate(trainer, measured),
            unit=self.settings.unit,
            story=self._adapting.story(),
            curvatures=self._curvature.averages if self._curvature is not None else {},
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Removes every hook."""
        if self._serves(trainer):
            self._close()

    def _close(self) -> None:
        self._steps = None  # it holds the optimizers
        self._adapting.close()
        if self._curvature is not None:
            self._curvature.close()
        for one in self._measured:
            one.monitor.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Removes every hook: after an error Lightning calls this and not ``teardown``. What was measured stays."""
        if not self._serves(trainer):
            return
        self._close()
        if self._curvature is not None and trainer.world_size > 1:
            self._curvature.forget_unread()
        for one in self._measured:
            if trainer.world_size > 1:
                one.monitor.forget_unread()  # reading is a collective, and another rank may be gone
            else:
                with suppress(RuntimeError):  # a device that failed cannot be read; the error on the way is the one to show
                    one.monitor.flush()
        if isinstance(exception, KeyboardInterrupt) and self._measured:
            self._print_verdict(trainer, pl_module)

    @property
    def _running(self) -> Steps:
        if self._steps is None:
            raise RuntimeError("GradientNoiseScale: a hook was called outside of fit; on_fit_start was skipped.")
        return self._steps

    # ---- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values; reads what waits, so it is called on all ranks, as Lightning does."""
        if not self._measured:
            return self._state or {}
        self._flush()
        curvature = {"curvature": self._curvature.state_dict()} if self._curvature is not None else {}
        monitors = {one.name: one.monitor.state_dict() for one in self._measured}
        epoch = {"epoch_whole": self._epoch_whole, "open_epoch": self._open_epoch}
        adaptation = self._adapting.state_dict()
        return {"version": VERSION, "monitors": monitors, **epoch, **adaptation, **curvature}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of a checkpoint at the start of the next fit, or at once where it is restored in mid-fit.

        Raises:
            CheckpointError: the state is damaged or of a version that this one cannot read.
        """
        with reading_checkpoint(state_dict):
            check_state(state_dict)
            self._state = dict(state_dict) or None
            if self._steps is not None:  # a search for a learning rate or batch size, or a strategy that restores late
                self._take_up(self._state)
            self._adapting.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        lightning_s = {"log", "log_dict"}  # the trainer puts the module's methods here
        own = {name: value for name, value in self.__dict__.items() if name not in lightning_s}
        return {
            **own,
            "_state": self.state_dict() or None,
            "_measured": [],
            "_steps": None,
            "_curvature": None,
            "_module": None,
            "_trainer": None,
        }


class _Numbers(NamedTuple):
    """The numbers of a monitor as adapting reads them."""

    monitor: Monitor

    def read(self) -> object:
        return self.monitor.flush()

    def resized(self) -> None:
        self.monitor.resized()

    @property
    def optimizer_steps(self) -> int:
        return self.monitor.optimizer_steps

    @property
    def examples(self) -> float:
        return self.monitor.readings.examples

    @property
    def global_size(self) -> float | None:
        return self.monitor.global_size

    @property
    def data_size(self) -> float | None:
        return self.monitor.readings.data_size

    @property
    def b_simple(self) -> float | None:
        return self.monitor.estimate().b_simple


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except CannotMeasureError as error:
        raise MisconfigurationException(f"`GradientNoiseScale`: {error}") from error
