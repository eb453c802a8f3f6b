"""Fits whose batches cannot be split, refused before anything of their trainer is changed."""

import lightning as L

from lightning_noise.hosts.lightning.trainer_facts import scheduled_accumulation
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException

MANUAL = (
    "{module}.automatic_optimization is False: the module itself decides when it steps, so its "
    "batches cannot be split from outside. Leave split out, and call manual_backward on each part "
    "of a batch before one step."
)
SCHEDULE = (
    "GradientAccumulationScheduler sets accumulate_grad_batches by a plan of its own. Leave split "
    "out, give the DataLoader 1/{times} of its batch_size, and multiply the numbers of the "
    "scheduler by {times}."
)
OTHER_POSITION = (
    "the checkpoint was saved inside an epoch with split={saved}, so its position counts other "
    "batches. Resume with split={saved}, or from the end of an epoch."
)


def refuse_split(trainer: L.Trainer, module: L.LightningModule, times: int) -> None:
    """Raises where the batches of a fit cannot be split into ``times`` micro-batches.

    Raises:
        MisconfigurationException: names the reason and the fix.
    """
    if not module.automatic_optimization:
        raise cannot_split(times, MANUAL.format(module=type(module).__name__))
    if scheduled_accumulation(trainer):
        raise cannot_split(times, SCHEDULE.format(times=times))


def cannot_split(times: int, reason: str) -> MisconfigurationException:
    """The error for a reason, which holds the fix."""
    return MisconfigurationException(f"`GradientNoiseScale(split={times})`: {reason}")
