"""Set-ups in which the noise scale would be wrong, refused before training starts and on all ranks
alike.
"""

from collections.abc import Callable
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn import SyncBatchNorm

from lightning_noise.hosts.lightning import sharded, trainer_facts
from lightning_noise.hosts.lightning.two_packages import (
    MisconfigurationException,
    either,
    package_of,
)


class Refusal(NamedTuple):
    """One reason not to measure: when it holds, and the message (what, why, the fix)."""

    name: str
    holds: Callable[[L.Trainer, L.LightningModule], bool]
    message: Callable[[L.Trainer, L.LightningModule], str]


def _optimizers(trainer: L.Trainer) -> list[torch.optim.Optimizer]:
    """Without one, Lightning puts a stand-in that has no parameters."""
    return [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]


def _of_two_packages(trainer: L.Trainer) -> str:
    data = trainer_facts.data_module(trainer)
    return (
        f"{type(data).__name__} is a LightningDataModule of {package_of(data)}, but the Trainer is "
        f"of {package_of(trainer)}. Import both from one of the two packages."
    )


def _mixes_packages(trainer: L.Trainer) -> bool:
    package = package_of(trainer_facts.data_module(trainer))
    return package not in ("", package_of(trainer))


def _has_lbfgs(trainer: L.Trainer) -> bool:
    return any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers)


def _sync_batch_norms(module: L.LightningModule) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, SyncBatchNorm)]


def _averages_in_part(trainer: L.Trainer) -> bool:
    state = getattr(trainer.strategy, "_ddp_comm_state", None)
    return type(state).__name__ == "PostLocalSGDState"


def _accumulates_static_graph(trainer: L.Trainer) -> bool:
    is_static = bool(getattr(trainer.strategy.model, "static_graph", False))
    return is_static and trainer.accumulate_grad_batches > 1


MEASURED = (*either(SingleDeviceStrategy), *either(DDPStrategy), *sharded.SHARDED)
REFUSALS = (
    Refusal(
        "two packages",
        lambda trainer, _: _mixes_packages(trainer),
        lambda trainer, _: _of_two_packages(trainer),
    ),
    Refusal(
        "no optimizer",
        lambda trainer, _: not _optimizers(trainer),
        lambda *_: (
            "it needs an optimizer, but configure_optimizers returned none. Return at least one."
        ),
    ),
    Refusal(
        "LBFGS",
        lambda trainer, _: _has_lbfgs(trainer),
        lambda _, __: (
            "torch.optim.LBFGS evaluates the loss several times within one step, so the gradients "
            "of a step do not belong to one point. Use a first-order optimizer."
        ),
    ),
    Refusal(
        "SyncBatchNorm",
        lambda trainer, module: trainer.world_size > 1 and bool(_sync_batch_norms(module)),
        lambda _, module: (
            f"SyncBatchNorm ({', '.join(_sync_batch_norms(module))}) ties the examples of all "
            "ranks together, so their gradients are not independent. Use BatchNorm that is local "
            "to a rank, GroupNorm or LayerNorm."
        ),
    ),
    Refusal(
        "post-local SGD",
        lambda trainer, _: _averages_in_part(trainer),
        lambda _, __: (
            "post-local SGD averages gradients within a sub-group of ranks only, so there is no "
            "gradient of the whole step. Use another communication hook or none."
        ),
    ),
    Refusal(
        "static_graph with accumulation",
        lambda trainer, _: _accumulates_static_graph(trainer),
        lambda trainer, _: (
            "DDP(static_graph=True) with accumulate_grad_batches="
            f"{trainer.accumulate_grad_batches} fails inside torch (INTERNAL ASSERT in the "
            "reducer), with this callback or without. Leave static_graph out, or do not accumulate."
        ),
    ),
    Refusal(
        "DeepSpeed",
        lambda trainer, _: sharded.is_deepspeed(trainer),
        lambda trainer, _: (
            f"{type(trainer.strategy).__name__} reduces gradients inside its own engine, which "
            "shows neither a rank's own gradient nor the averaged one (.grad is None): a hook in "
            "the engine would be needed. Use strategy='fsdp' or 'ddp'."
        ),
    ),
    Refusal(
        "tensor parallelism",
        lambda trainer, _: sharded.tensor_parallel_size(trainer) > 1,
        lambda trainer, _: (
            f"tensor_parallel_size={sharded.tensor_parallel_size(trainer)} splits one gradient "
            "over ranks that see the same examples: their parts would have to be summed in every "
            "step before they are squared. Use ModelParallelStrategy(tensor_parallel_size=1)."
        ),
    ),
    Refusal(
        "CPU offload",
        lambda trainer, module: sharded.is_offloaded(trainer, module),
        lambda trainer, _: (
            f"CPU offload keeps the averaged gradient on the CPU and the ranks' own on "
            f"{trainer.strategy.root_device}, and no step may wait for a copy between them. Leave "
            "CPU offload out."
        ),
    ),
    Refusal(
        "strategy",
        lambda trainer, _: not isinstance(trainer.strategy, MEASURED),
        lambda trainer, _: (
            f"strategy {type(trainer.strategy).__name__} is not supported: nothing is known of "
            "where it shows gradients before they are reduced. Use one device, DDP, FSDP or "
            "ModelParallelStrategy."
        ),
    ),
)


def refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Raises for the first set-up of the table that holds.

    Raises:
        MisconfigurationException: names the set-up, the reason and the fix.
    """
    for refusal in REFUSALS:
        if refusal.holds(trainer, module):
            reason = refusal.message(trainer, module)
            raise MisconfigurationException(f"`GradientNoiseScale`: {reason}")
