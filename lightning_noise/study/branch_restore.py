"""A module and its optimizer as a checkpoint left them, with the learning rate of a branch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_noise.hosts.lightning.two_packages import Callback
from lightning_noise.hosts.rate_factor import optimizer_kinds
from lightning_noise.study.branch_rate import Rate, RateRule, branch_rate

WEIGHTS = "state_dict"
OPTIMIZERS = "optimizer_states"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint that has weights and the state of one optimizer.

    It is read anew for every branch: an optimizer works on the very tensors that it is given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks weights or the state of the optimizer, or has several optimizers.
    """
    file = Path(path)
    if file.is_dir():
        fix = "Consolidate it into one file (python -m lightning.pytorch.utilities"
        fix += ".consolidate_checkpoint)"
        raise ValueError(f"{fix}: checkpoint must be a file, got the folder {file}.")
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}.")
    # as Lightning reads its own checkpoints: hyperparameters may be objects of any class
    found = torch.load(file, map_location="cpu", weights_only=False)
    if not isinstance(found, dict) or WEIGHTS not in found:
        rule = "checkpoint must be one of Lightning's, with a state_dict"
        raise ValueError(f"{rule}, got {file}. Save it with trainer.save_checkpoint(path).")
    states = found.get(OPTIMIZERS)
    if not states:
        fix = "Save it with trainer.save_checkpoint(path) or ModelCheckpoint(save_weights_only="
        rule = "checkpoint must hold the state of the optimizer, with which each branch goes on"
        raise ValueError(f"{fix}False): {rule}, which {file} does not.")
    if len(states) > 1:
        rule = "checkpoint must be that of a run with one optimizer"
        raise ValueError(f"{rule}, got {len(states)} optimizers in {file}.")
    return found


def restore_weights(module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Loads the weights as Lightning does.

    Raises:
        ValueError: they are those of another module.
    """
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint[WEIGHTS], strict=module.strict_loading)
    except RuntimeError as error:
        rule = "make_module must give the module that the checkpoint was saved from"
        raise ValueError(f"{rule}, got {type(module).__name__}: {error}") from error


class RestoreWeights(Callback):
    """Loads a checkpoint's weights before a validation, after ``configure_model``."""

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        self._checkpoint = checkpoint

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Loads them."""
        restore_weights(pl_module, self._checkpoint)


class Restore(Callback):
    """Begins a branch: weights and optimizer of the checkpoint, with the branch's rate held.

    The learning rate is that of the checkpoint times the branch's factor in every parameter group.
    Learning-rate schedules are taken out, so that it stays there.

    Args:
        checkpoint: as from :func:`read_checkpoint`.
        rule: of the learning rate.
        factor: batch size of the branch over that of the run.

    Attributes:
        rate: the factor on the learning rate, once the branch has begun.
        learning_rate: of the first parameter group.
    """

    def __init__(self, checkpoint: dict[str, Any], rule: RateRule, factor: float) -> None:
        self._checkpoint = checkpoint
        self._rule = rule
        self._factor = factor
        self.rate: Rate | None = None
        self.learning_rate: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores, sets the rate and takes the schedules out."""
        restore_weights(pl_module, self._checkpoint)
        optimizer = _only_optimizer(trainer, pl_module)
        _restore_optimizer(trainer, self._checkpoint)
        self.rate = branch_rate(self._rule, self._factor, optimizer_kinds(optimizer))
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.rate.factor  # a new tensor, where it is one
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
        trainer.strategy.lr_scheduler_configs = []


def _only_optimizer(trainer: L.Trainer, module: L.LightningModule) -> torch.optim.Optimizer:
    """The optimizer of the run.

    Raises:
        ValueError: optimization is manual, or the optimizer has no learning rate.
    """
    if not module.automatic_optimization:
        rule = "make_module must give a module with automatic optimization"
        why = "a branch counts optimizer steps and holds their rate"
        raise ValueError(f"{rule}, got {type(module).__name__} with manual optimization: {why}.")
    if len(trainer.optimizers) != 1:
        rule = "make_module must give a module with one optimizer"
        raise ValueError(f"{rule}, got {len(trainer.optimizers)}.")
    optimizer = trainer.optimizers[0]
    if any("lr" not in group for group in optimizer.param_groups):
        rule = "the optimizer must have a learning rate 'lr' in every parameter group"
        raise ValueError(f"{rule}, got {type(optimizer).__name__}.")
    return optimizer


def _restore_optimizer(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    try:
        trainer.strategy.load_optimizer_state_dict(checkpoint)
    except ValueError as error:
        rule = "make_module must configure the optimizer of the checkpoint"
        kind = type(trainer.optimizers[0]).__name__
        raise ValueError(f"{rule}, got {kind}: {error}") from error
