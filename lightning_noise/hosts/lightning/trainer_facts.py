"""The few things that are read from a Lightning trainer or a batch."""

import math
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DistributedSampler, IterableDataset

from lightning_noise.hosts.lightning.loader_facts import order_cautions
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.measure.probe_choice import Facts
from lightning_noise.probes.examples import (
    Examples,
    UnsupportedModelError,
    uses_batch_statistics,
)
from lightning_noise.probes.probe import Probe
from lightning_noise.probes.ranks import BucketTap

BatchSizeFn = Callable[[Any], Any]


class BatchSizeError(ValueError):
    """The number of examples in a batch cannot be told."""


def facts(trainer: L.Trainer) -> Facts:
    """Ranks, and the accumulation that the trainer or a GradientAccumulationScheduler will use."""
    counts = [trainer.accumulate_grad_batches]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set in Trainer's connector, public and documented
        if isinstance(callback, either(GradientAccumulationScheduler)):
            counts = list(callback.scheduling.values())  # always has one for epoch 0
    return Facts(
        trainer.world_size,
        min(counts),
        buckets=bucket_tap(trainer) is not None,
        greatest=max(counts),
        manual=not trainer.lightning_module.automatic_optimization,
    )


def optimizer_names(trainer: L.Trainer) -> list[str]:
    """What the optimizers are called in log keys: "" where there is one, else as LearningRateMonitor does (Adam, Adam-1)."""
    if len(trainer.optimizers) == 1:
        return [""]
    kinds = [type(optimizer).__name__ for optimizer in trainer.optimizers]
    before = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
    return [kind if count == 0 else f"{kind}-{count}" for kind, count in zip(kinds, before, strict=True)]


def no_examples(trainer: L.Trainer, module: L.LightningModule, probe: Examples, parameters: dict[str, Parameter]) -> str | None:
    """Why single examples cannot be told apart in this model; ``None`` where the probe, now bound to it, can."""
    try:
        probe.bind(module, seed=int(os.environ.get("PL_GLOBAL_SEED", "0")), rank=trainer.global_rank)
        probe.survey(parameters)
    except UnsupportedModelError as error:
        return str(error)
    return None


def left_out(probe: Probe) -> tuple[str, ...]:
    """What a probe of single examples does not see, by name."""
    return tuple(probe.remarks()) if isinstance(probe, Examples) else ()


def data_module(trainer: L.Trainer) -> object:
    """What the training data come from: module, data module or loader; also a data module that the Trainer does not know."""
    return trainer.fit_loop._data_source.instance  # no public way: trainer.datamodule is what the Trainer takes for one


def bucket_tap(trainer: L.Trainer) -> BucketTap | None:
    """The tap that a NoiseStrategyMixin owns."""
    return getattr(trainer.strategy, "noise_tap", None)


def ends_step(trainer: L.Trainer) -> bool:
    """Whether the optimizer will step after the present batch."""
    return not trainer.fit_loop._should_accumulate()  # no public way; Lightning's own progress bars ask the same


def logs_now(trainer: L.Trainer) -> bool:
    """Whether Lightning writes the metrics of the step that the present batch ended."""
    return ends_step(trainer) and trainer._logger_connector.should_update_logs  # as LearningRateMonitor does


def log_index(trainer: L.Trainer) -> int:
    """The x-axis of ``LightningModule.log``."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # as LearningRateMonitor does


def loss_scale(trainer: L.Trainer, device: torch.device) -> Tensor | None:
    """The factor that mixed precision puts on the loss, on the device; reading it does not wait for the device."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler.scale(torch.ones((), device=device))


def trained_parameters(module: L.LightningModule, optimizer: torch.optim.Optimizer) -> dict[str, Parameter]:
    """Named parameters that the optimizer updates."""
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in module.named_parameters() if id(p) in updated}


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def finite_data(trainer: L.Trainer) -> bool:
    """Whether every training loader runs over a data set of known size, so that later epochs repeat its examples."""
    sets = [getattr(leaf, "dataset", None) for leaf in _leaves(trainer.train_dataloader)]
    return bool(sets) and all(hasattr(s, "__len__") and not isinstance(s, IterableDataset) for s in sets)


def epoch_is_whole(trainer: L.Trainer) -> bool:
    """Whether the epoch that ends has used every example of its loaders once."""
    ended = (
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    )  # no public way; false where max_steps or a stop cut it short
    return bool(ended) and (trainer.limit_train_batches == 1.0 or bool(getattr(trainer, "overfit_batches", 0)))


def cautions(trainer: L.Trainer, module: L.LightningModule) -> tuple[str, ...]:
    """Reasons for doubt that the model, the strategy or the sampler give."""
    found = []
    if _ties_examples(trainer, module):
        found.append("BatchNorm ties the examples of a micro-batch together: the number holds for micro-batches of this size")
    hook = getattr(trainer.strategy, "_ddp_comm_hook", None)  # no public way to see which hook compresses gradients
    name = getattr(hook, "__name__", str(hook))
    if hook is not None and (name != "allreduce_hook" or getattr(trainer.strategy, "_ddp_comm_wrapper", None)):
        found.append(f"the communication hook {name} may lose some of the gradient on the way: |G|² is too low by as much")
    for leaf in _leaves(trainer.train_dataloader):
        sampler = getattr(leaf, "sampler", None)
        repeated = sampler.total_size - len(leaf.dataset) if isinstance(sampler, DistributedSampler) else 0
        if repeated > 0:
            found.append(f"DistributedSampler repeats {repeated} of {len(leaf.dataset)} examples an epoch to fill up the ranks")
    return (*found, *order_cautions(trainer))


def _ties_examples(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether BatchNorm takes its statistics from the batches of training.

    An interrupted validation leaves all of the module in eval mode: there every BatchNorm counts.
    """
    if trainer.validating or trainer.sanity_checking:
        return any(isinstance(part, _BatchNorm) for part in module.modules())
    return any(uses_batch_statistics(part) for part in module.modules())


def resolve(function: Callable[..., Any] | str | None, argument: str = "batch_size_fn") -> Callable[..., Any] | None:
    """A callable from a callable or from a dotted path.

    Raises:
        ValueError: the path leads nowhere or to something that cannot be called.
    """
    if not isinstance(function, str):
        return function
    try:
        found = pkgutil.resolve_name(function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{argument}={function!r} cannot be imported ({error}). Give a dotted path such as 'my_package.count'."
        ) from error
    if not callable(found):
        raise ValueError(f"{argument}={function!r} must name a callable, but it is {found!r}.")
    return found  # type: ignore[no-any-return]


def local_size(batch: Any, batch_size_fn: BatchSizeFn | None) -> float:
    """Number of examples in a batch: what ``batch_size_fn`` says, else the length of the first tensor that has one.

    Raises:
        BatchSizeError: it cannot be told, or the function does not return a finite number above 0.

    >>> local_size({"x": torch.zeros(8, 3), "y": torch.zeros(8)}, None)
    8
    """
    if batch_size_fn is None:
        found = rows(batch)
        if found is not None:
            return found
        raise BatchSizeError(
            f"the number of examples in a batch of type {type(batch).__name__} cannot be told: it holds no tensor with a first "
            "dimension. Pass batch_size_fn, a function from the batch to its number of examples (or tokens)."
        )
    try:
        size = batch_size_fn(batch)
        size = size.item() if isinstance(size, Tensor) and size.numel() == 1 else size
    except Exception as error:  # the user's function may raise anything
        raise BatchSizeError(f"batch_size_fn raised {type(error).__name__}: {error}") from error
    if isinstance(size, bool) or not isinstance(size, Real) or not math.isfinite(size) or size <= 0:
        raise BatchSizeError(f"batch_size_fn must return a finite number > 0, but it returned {size!r}.")
    return float(size) if not isinstance(size, int) else size


def rows(batch: Any, size: float | None = None) -> int | None:
    """Length of the first tensor of a batch that has one; of a packed sequence, its number of sequences.

    Where the length of any tensor is ``size``, which the user's function gave, it is that.
    """
    lengths = [len(leaf) for leaf in _leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) > 0]
    return int(size) if size is not None and size in lengths else next(iter(lengths), None)


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, PackedSequence):
        batch = batch.batch_sizes.new_empty(int(batch.batch_sizes[0]))  # on the host, whatever the data are on
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if is_dataclass(batch) and not isinstance(batch, type):
        batch = [getattr(batch, field.name) for field in fields(batch)]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        for item in batch:
            yield from _leaves(item)
    else:
        yield batch


def batches_done(trainer: L.Trainer) -> int:
    """Batches of the present epoch, the present one included; accumulation counts by them."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)  # no public way that holds after a resume in mid-epoch


def steps_in_epoch(trainer: L.Trainer) -> float:
    """Optimizer steps of an epoch as it is prepared now; infinite where the data have no known end."""
    batches = trainer.num_training_batches
    return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf


def forget_training_loaders(trainer: L.Trainer) -> None:
    """Makes the trainer prepare its training loaders once more before the first epoch of a fit."""
    trainer.fit_loop._combined_loader = None  # as Trainer.fit does; the public setting waits for the epoch's number to change


def training_is_over(trainer: L.Trainer) -> bool:
    """Whether a fit that begins has nothing left to train, as after resuming from the last checkpoint of a finished one."""
    return bool(trainer.fit_loop.done)  # no public way; what Trainer.fit itself asks


def prepare_training_loaders(trainer: L.Trainer) -> None:
    """Prepares the training loaders once more, at once: where Lightning is about to run an epoch without announcing it."""
    forget_training_loaders(trainer)
    trainer.fit_loop.setup_data()
    done = trainer.fit_loop.epoch_loop.batch_progress.current  # below the new number of batches it would count as half an epoch
    done.completed = max(done.completed, trainer.num_training_batches)  # type: ignore[assignment]
