"""Set-ups in which the number would be wrong, refused before training starts and alike on all ranks."""

from collections.abc import Callable
from typing import NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy


class Refusal(NamedTuple):
    """One reason not to measure: when it holds, and what to tell the user (what, why, the way out)."""

    name: str
    holds: Callable[[L.Trainer, L.LightningModule], bool]
    message: Callable[[L.Trainer, L.LightningModule], str]


def _optimizers(trainer: L.Trainer) -> list[torch.optim.Optimizer]:
    """Without one, Lightning puts a stand-in that has no parameters."""
    return [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]


REFUSALS = (
    Refusal(
        "manual optimization",
        lambda _, module: not module.automatic_optimization,
        lambda _, module: (
            f"{type(module).__name__}.automatic_optimization is False, and manual optimization is not supported yet: which "
            "backward passes belong to a step is only known to the module. Use automatic optimization."
        ),
    ),
    Refusal(
        "number of optimizers",
        lambda trainer, _: len(_optimizers(trainer)) != 1,
        lambda trainer, _: (
            f"it needs exactly one optimizer, but configure_optimizers returned {len(_optimizers(trainer))}. "
            "Return one optimizer (with several parameter groups where needed)."
        ),
    ),
    Refusal(
        "LBFGS",
        lambda trainer, _: any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers),
        lambda _, __: (
            "torch.optim.LBFGS evaluates the loss several times within one step, so the gradients of a step do not belong "
            "to one point. Use a first-order optimizer."
        ),
    ),
    Refusal(
        "strategy",
        lambda trainer, _: not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)),
        lambda trainer, _: (
            f"strategy {type(trainer.strategy).__name__} is not supported: it shards or moves gradients before they can be "
            "seen. Use one device or DDP."
        ),
    ),
)


def refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Raises for the first set-up of the table that holds.

    Raises:
        MisconfigurationException: names the set-up, the reason and the way out.
    """
    for refusal in REFUSALS:
        if refusal.holds(trainer, module):
            raise MisconfigurationException(f"`GradientNoiseScale`: {refusal.message(trainer, module)}")
