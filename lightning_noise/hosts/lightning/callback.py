"""The callback: Lightning's hooks, translated."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize
from lightning_noise.adapt.policy import BatchSizePolicy
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.hosts.lightning import (
    sharded_strategies,  # noqa: F401  # registers names
    strategies,  # noqa: F401  # registers "ddp_noise"
)
from lightning_noise.hosts.lightning.fits import Fits
from lightning_noise.hosts.lightning.settings import Settings
from lightning_noise.hosts.lightning.two_packages import Callback
from lightning_noise.measure.session import Session
from lightning_noise.probes.probe import Probe
from lightning_noise.say.verdict import Verdict


class GradientNoiseScale(Callback):
    """Measures how large a batch size pays off: the noise scale B_simple = tr(Σ)/|G|².

    Reads gradients only: weights, gradients and random state stay as they would be without it
    (for compiled models see Examples(eager=True)).
    The value and its interval are logged under ``noise_scale/…`` through the trainer's loggers at
    its log interval, and a verdict is printed at the end of ``fit``.

    Args:
        probe: where the groups of gradients come from: "auto", "examples" (one device),
            "micro_batches" (accumulation, plain DDP), "ranks" (strategy "ddp_noise"), "shards"
            (FSDP and ModelParallelStrategy), or a Probe.
        geometry: the metric M in gᵀMg, or a tuple of them: "euclidean" (measured in any case),
            "hessian" (B_noise; needs three micro-batches per step or a loss_fn), "gauss_newton"
            (needs a loss_fn), "optimizer". An adaptive batch size follows the first one.
        every_n_steps: measures the first of every so many optimizer steps; None means every step,
            every 20th with Examples(eager=True), and every 100th for "hessian" and "gauss_newton";
            a batch size that adapts by the clock then measures as many as cost 10 % of the time.
        decay: exponential decay per measured step: an average over (1 + decay)/(1 − decay) steps.
        adaptive_batch_size: True lets the batch size grow to the one that gets
            furthest per second (LeastTime); a BatchSizePolicy such as lightning_noise.ExchangeRate
            sets it by its rule; an AdaptiveBatchSize has more settings.
        batch_size_fn: batch → number of examples (or tokens, nodes, …), where the length of the
            first tensor is not it. A function or its dotted path.
        per_layer: True also measures every module that owns parameters; a number n, the first n
            parts of their names.
        prog_bar: shows b_simple in the progress bar.
        verbose: prints the verdict at the end of fit; callback.verdict() returns it in any case.
        figures: passes a figure of the run and the verdict to TensorBoard, W&B and MLflow at the
            ends of epochs and of the fit, for at most one percent of the time; needs matplotlib.
        loss_fn: (module, batch) → mean loss, or (loss, outputs) for "gauss_newton"; for curvatures
            with fewer than three micro-batches per step. A function or its dotted path.
        split: divides every training batch into so many micro-batches, whose gradients are
            accumulated: a step uses the same examples as before, and any model can be measured.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.
        MisconfigurationException: in ``on_fit_start``, where the set-up cannot give a right number;
            names the fix.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A.

    >>> GradientNoiseScale(decay=1.5)
    Traceback (most recent call last):
    ValueError: decay must lie strictly between 0 and 1, got 1.5. 0.99 averages about 200 steps.
    """

    def __init__(
        self,
        probe: Probe | str = "auto",  # in this order a command line takes the path of a class
        *,
        geometry: str | tuple[str, ...] = "euclidean",
        every_n_steps: int | None = None,
        decay: float = 0.99,
        adaptive_batch_size: bool | BatchSizePolicy | AdaptiveBatchSize = False,
        batch_size_fn: Callable[[Any], Any] | str | None = None,
        per_layer: bool | int = False,
        prog_bar: bool = False,
        loss_fn: Callable[[Any, Any], Any] | str | None = None,
        split: int = 1,
        verbose: bool = True,
        figures: bool = True,
    ) -> None:
        given = {**locals()}
        arguments = {name: given[name] for name in Settings.names()}
        self.settings = Settings(**arguments)
        self._fits = Fits(self.settings)

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints; the same for subclasses."""
        return "GradientNoiseScale"

    def estimate(self, key: Key = Key()) -> NoiseEstimate | None:
        """The estimate from all steps read so far; ``None`` for what has not been measured.

        ``Key(optimizer="Adam-1")`` is one of several optimizers, ``Key("hessian")`` another
        geometry. Launchers that copy the callback (``ddp_spawn``, notebooks) leave this one as it
        was: there ask ``trainer.callback_metrics`` or a checkpoint.
        """
        return self._fits.estimate(key)

    def trajectories(self) -> dict[Key, Trajectory]:
        """First, mean and last resolved value of every noise scale of the whole model."""
        return self._fits.trajectories()

    def verdict(self, optimizer: str = "") -> Verdict:
        """The verdict of the latest ``fit`` on its batch size; ``str()`` of it is printed."""
        return self._fits.verdict(optimizer)

    @property
    def session(self) -> Session:
        """The measurement of the latest ``fit``: averages by key, skipped steps, probes."""
        return self._fits.session

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Splits the batches of a fit, where that is wanted, before anything counts them."""
        if stage == "fit":
            self._fits.set_up(trainer, pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses what cannot be right, and continues earlier averages of the same module."""
        self._fits.begin(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Looks at the loaders, which exist by now."""
        self._fits.of(trainer).train_starts()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """An epoch begins."""
        self._fits.of(trainer).epoch_starts()

    def on_train_batch_start(self, trainer: L.Trainer, _: Any, batch: Any, *__: Any) -> None:
        """A batch is about to go forward."""
        self._fits.of(trainer).batch_starts(batch)

    def on_before_backward(self, trainer: L.Trainer, _: Any, loss: Tensor) -> None:
        """The graph of the loss exists."""
        self._fits.of(trainer).before_backward(loss)

    def on_after_backward(self, trainer: L.Trainer, *_: Any) -> None:
        """The gradients exist, still scaled and not yet clipped."""
        self._fits.of(trainer).after_backward()

    def on_before_optimizer_step(self, trainer: L.Trainer, _: Any, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        self._fits.of(trainer).before_step(optimizer)

    def on_train_batch_end(self, trainer: L.Trainer, _: Any, outputs: Any, *__: Any) -> None:
        """Reads and logs at the trainer's interval."""
        self._fits.of(trainer).batch_ends(outputs)

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        """The time of a validation is not that of a step."""
        self._fits.validation_starts(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Decides on the batch size, and logs."""
        self._fits.of(trainer).epoch_ends()

    def on_fit_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Prints the verdict on rank 0."""
        self._fits.end(trainer)

    def teardown(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Removes every hook."""
        self._fits.close(trainer)

    def on_exception(self, trainer: L.Trainer, _: Any, exception: BaseException) -> None:
        """Removes every hook: after an error Lightning calls this and not ``teardown``."""
        self._fits.fail(trainer, exception)

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values; reads what waits, so it is called on all
        ranks, as Lightning does.
        """
        return self._fits.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of a checkpoint; a ``CheckpointError`` says why it cannot."""
        self._fits.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for of_module in ("log", "log_dict"):  # the trainer sets the module's methods here
            state.pop(of_module, None)
        return state
