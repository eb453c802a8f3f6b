"""The few things that are read from a Lightning trainer or a batch."""

import os
from collections import Counter
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DistributedSampler, IterableDataset

from lightning_noise.hosts.distributed import reduction_over
from lightning_noise.hosts.lightning.loader_facts import order_cautions
from lightning_noise.hosts.lightning.strategies import NoiseStrategyMixin
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.measure.batches import leaves
from lightning_noise.probes.examples import uses_batch_statistics
from lightning_noise.probes.setup import Setup


def is_deterministic() -> bool:
    """Whether ``Trainer(deterministic=True)`` was given; not for ``"warn"``."""
    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled and not torch.is_deterministic_algorithms_warn_only_enabled()


def scheduled_accumulation(trainer: L.Trainer) -> list[int]:
    """The values that a GradientAccumulationScheduler will set; empty where there is none."""
    # set in Trainer's connector, public and documented
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, either(GradientAccumulationScheduler)):
            return list(callback.scheduling.values())  # always has one for epoch 0
    return []


def setup_of(trainer: L.Trainer) -> Setup:
    """The facts of a fit: ranks, and the accumulation that the trainer or a
    GradientAccumulationScheduler will use.
    """
    counts = scheduled_accumulation(trainer) or [trainer.accumulate_grad_batches]
    tap = None
    if isinstance(trainer.strategy, NoiseStrategyMixin):
        tap = trainer.strategy.noise_tap
    return Setup(
        ranks=trainer.world_size,
        rank=trainer.global_rank,
        reduce=reduction_over(trainer.world_size),
        accumulation=min(counts),
        most_accumulation=max(counts),
        manual=not trainer.lightning_module.automatic_optimization,
        tap=tap,
        seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        forward_context=trainer.precision_plugin.train_step_context,
    )


def optimizer_names(trainer: L.Trainer) -> list[str]:
    """The names of the optimizers in log keys: "" where there is one, else as LearningRateMonitor
    names them (Adam, Adam-1).
    """
    if len(trainer.optimizers) == 1:
        return [""]
    seen: Counter[str] = Counter()
    names: list[str] = []
    for optimizer in trainer.optimizers:
        kind = type(optimizer).__name__
        if kind in seen:
            names.append(f"{kind}-{seen[kind]}")
        else:
            names.append(kind)
        seen[kind] += 1
    return names


def data_module(trainer: L.Trainer) -> object:
    """What the training data come from: module, data module or loader; also a data module that the
    Trainer does not know.
    """
    # no public way: trainer.datamodule is what the Trainer takes for one
    return trainer.fit_loop._data_source.instance


def ends_step(trainer: L.Trainer) -> bool:
    """Whether the optimizer will step after the present batch."""
    # no public way; Lightning's own progress bars ask the same
    return not trainer.fit_loop._should_accumulate()


def logs_now(trainer: L.Trainer) -> bool:
    """Whether Lightning writes the metrics of the step that the present batch ended."""
    # as LearningRateMonitor does
    return ends_step(trainer) and trainer._logger_connector.should_update_logs


def log_index(trainer: L.Trainer) -> int:
    """The x-axis of ``LightningModule.log``."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # as LearningRateMonitor does


def loss_scale(trainer: L.Trainer, device: torch.device) -> Tensor | None:
    """The factor that mixed precision puts on the loss, on the device; reading it does not wait for
    the device.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return None
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def finite_data(trainer: L.Trainer) -> bool:
    """Whether every training loader runs over a data set of known size, so that later epochs repeat
    its examples.
    """
    found = list(leaves(trainer.train_dataloader))
    return bool(found) and all(map(_has_finite_data, found))


def _has_finite_data(loader: object) -> bool:
    data = getattr(loader, "dataset", None)
    return hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def epoch_is_whole(trainer: L.Trainer) -> bool:
    """Whether the epoch that ends has used every example of its loaders once."""
    # no public way; false where max_steps or a stop cut it short
    if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return False
    return trainer.limit_train_batches == 1.0 or bool(getattr(trainer, "overfit_batches", 0))


def cautions(trainer: L.Trainer, module: L.LightningModule) -> tuple[str, ...]:
    """Reasons for doubt that the model, the strategy or the sampler give."""
    found: list[str] = []
    if _ties_examples(trainer, module):
        found.append(
            "BatchNorm ties the examples of a micro-batch together: the number holds for "
            "micro-batches of this size"
        )
    # no public way to see which hook compresses gradients
    hook = getattr(trainer.strategy, "_ddp_comm_hook", None)
    wrapper = getattr(trainer.strategy, "_ddp_comm_wrapper", None)
    name = getattr(hook, "__name__", str(hook))
    if hook is not None and (wrapper or name != "allreduce_hook"):
        found.append(
            f"the communication hook {name} may lose some of the gradient on the way: |G|² is too "
            "low by as much"
        )
    for leaf in leaves(trainer.train_dataloader):
        sampler = getattr(leaf, "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            continue
        examples = len(leaf.dataset)
        repeated = sampler.total_size - examples
        if repeated > 0:
            found.append(
                f"DistributedSampler repeats {repeated} of {examples} examples per epoch to fill "
                "up the ranks"
            )
    return (*found, *order_cautions(trainer))


def _ties_examples(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether BatchNorm takes its statistics from the batches of training.

    An interrupted validation leaves all of the module in eval mode: there every BatchNorm counts.
    """
    if trainer.validating or trainer.sanity_checking:
        return any(isinstance(part, _BatchNorm) for part in module.modules())
    return any(map(uses_batch_statistics, module.modules()))


def batches_done(trainer: L.Trainer) -> int:
    """Batches of the current epoch, the current one included; accumulation counts by them."""
    # no public way that is right after a resume in the middle of an epoch
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def forget_training_loaders(trainer: L.Trainer) -> None:
    """Makes the trainer prepare its training loaders once more before the first epoch of a fit."""
    # as Trainer.fit does; the public setting waits for the epoch's number to change
    trainer.fit_loop._combined_loader = None


def training_is_over(trainer: L.Trainer) -> bool:
    """Whether a fit that begins has nothing left to train, as after resuming from the last
    checkpoint of a finished one.
    """
    return bool(trainer.fit_loop.done)  # no public way; what Trainer.fit itself asks


def prepare_training_loaders(trainer: L.Trainer) -> None:
    """Prepares the training loaders once more, and immediately: for an epoch that Lightning is
    about to run without announcing it.
    """
    forget_training_loaders(trainer)
    trainer.fit_loop.setup_data()
    # below the new number of batches it would count as an unfinished epoch
    done = trainer.fit_loop.epoch_loop.batch_progress.current
    done.completed = max(done.completed, trainer.num_training_batches)  # type: ignore[assignment]


def set_up_training_loaders(trainer: L.Trainer) -> None:
    """Prepares the training loaders where they are not, as the trainer is about to do itself."""
    trainer.fit_loop.setup_data()


def combined_loader(trainer: L.Trainer) -> Any:
    """The prepared training loaders with their limits; ``None`` before they are there."""
    return trainer.fit_loop._combined_loader  # public is only the collection of loaders in it


def set_training_batches(trainer: L.Trainer, batches: float) -> None:
    """Sets ``trainer.num_training_batches``, which is only read in public."""
    trainer.fit_loop.max_batches = batches


def set_running_batches(trainer: L.Trainer, batches: int) -> None:
    """Sets the number of batches of the epoch that is running: where the trainer, its loop and the
    fetcher that announces the last batch count them.
    """
    set_training_batches(trainer, batches)
    loop = trainer.fit_loop
    if loop._combined_loader is not None and loop._combined_loader.limits is not None:
        limits = loop._combined_loader.limits
        limits[:] = [batches] * len(limits)  # the iterator in use has the same list
    if loop._data_fetcher is not None and loop._data_fetcher.length is not None:
        loop._data_fetcher.length = batches


def set_batches_done(trainer: L.Trainer, batches: int) -> None:
    """Sets :func:`batches_done`, and accordingly whether the present batch is the last one."""
    loop = trainer.fit_loop
    loop.epoch_loop.batch_progress.current.ready = batches
    is_last = batches == trainer.num_training_batches
    loop.epoch_loop.batch_progress.is_last_batch = is_last
    if loop._data_fetcher is not None:
        loop._data_fetcher.done = is_last


def begin_loaders_anew(trainer: L.Trainer) -> None:
    """Makes the training loaders draw again from where their samplers are told to begin."""
    iter(combined_loader(trainer))


def next_batch(trainer: L.Trainer) -> Any:
    """The next training batch, on the device; the trainer counts it as the present one."""
    batch, _, _ = next(combined_loader(trainer))
    # as _TrainingEpochLoop.advance
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def knows_batches(trainer: L.Trainer) -> bool:
    """Whether the number of batches of an epoch is known, so that none is fetched ahead."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and fetcher.length is not None


def steps_fetch_batches(trainer: L.Trainer) -> bool:
    """Whether ``training_step`` takes the iterator and draws its batches itself."""
    return isinstance(trainer.fit_loop._data_fetcher, either(_DataLoaderIterDataFetcher))


def batches_trained(trainer: L.Trainer) -> int:
    """Batches of an interrupted epoch after which a fit that is resumed goes on."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    total: Any = progress.total
    done = int(progress.current.completed)
    at_batch_end = total.ready == total.started == total.processed == total.completed + 1
    if at_batch_end:  # saved before the batch counted as completed; Lightning makes up for it too
        done += 1
    return done


def epoch_to_resume(trainer: L.Trainer) -> int | None:
    """The number of the epoch that a resumed fit goes on with, as samplers will get it; ``None``
    where no fit is resumed.
    """
    loop = trainer.fit_loop
    if not loop.restarting:
        return None
    epochs: Any = loop.epoch_progress
    ended = loop.epoch_loop.batch_progress.is_last_batch
    is_open = epochs.total.ready == epochs.total.started == epochs.total.processed + 1
    return int(epochs.current.processed) + int(ended and is_open)


def inside_epoch(trainer: L.Trainer) -> bool:
    """Whether a fit that begins is resumed in the middle of an epoch."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    left_inside = bool(progress.current.ready) and not progress.is_last_batch
    return trainer.fit_loop.restarting and left_inside
