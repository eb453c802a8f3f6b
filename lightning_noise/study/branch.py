"""One branch of a checkpoint, and what is measured at the checkpoint itself."""

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.utilities.data import extract_batch_size

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.hosts.frozen import measure_noise_scale
from lightning_noise.hosts.lightning.two_packages import (
    Callback,
    MisconfigurationException,
    either,
    package_of,
)
from lightning_noise.study.branch_rate import RateRule
from lightning_noise.study.branch_restore import Restore, RestoreWeights, read_checkpoint
from lightning_noise.study.runner import TrialError
from lightning_noise.study.trial import data_arguments, quiet, seeded


class BranchRecipe(NamedTuple):
    """What all branches share; sent once to every worker process.

    Attributes:
        checkpoint: path of a Lightning checkpoint.
        make_module: from parameters to a fresh LightningModule.
        make_data: from (global_size, seed) to loaders or a LightningDataModule.
        metric: logged in validation.
        rule: of the learning rate.
        trainer_options: more arguments of the Trainer.
        threads: of torch in each process.
    """

    checkpoint: str
    make_module: Callable[[dict[str, Any]], Any]
    make_data: Callable[[int, int], Any]
    metric: str
    rule: RateRule
    trainer_options: Mapping[str, Any]
    threads: int


class Branch(NamedTuple):
    """One branch to train: ``steps`` optimizer steps of ``global_size`` examples."""

    factor: float
    global_size: int
    steps: int
    seed: int


class BranchEnd(NamedTuple):
    """What a branch ended at.

    Attributes:
        value: of the metric at its end.
        learning_rate: of the first parameter group.
        rate_rule: how the learning rate followed the batch size, in words.
        seen: examples in its batches, by the first dimension of a batch; None: not known.
    """

    value: float
    learning_rate: float
    rate_rule: str
    seen: int | None


class Point(NamedTuple):
    """What was measured at the checkpoint: the metric, and noise scales by geometry."""

    value: float
    noise_scales: dict[str, NoiseEstimate]


class CountExamples(Callback):
    """Adds up the batch sizes of a run, where they can be read from its batches."""

    def __init__(self) -> None:
        self.seen: int | None = 0

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds this batch."""
        if self.seen is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # parts of different sizes: the first one counts
                self.seen += extract_batch_size(batch)
        except (MisconfigurationException, RecursionError):
            self.seen = None


def train_branch(recipe: BranchRecipe, branch: Branch) -> BranchEnd:
    """Trains one branch in this process, and validates it at its end.

    Random state, thread count and environment are restored afterwards.

    Raises:
        TrialError: it could not be trained; the message says which one and why.
    """
    try:
        with quiet(), seeded(branch.seed, recipe.threads):
            return _train(recipe, branch)
    except Exception as error:
        which = f"the branch at global size {branch.global_size} with seed {branch.seed}"
        raise TrialError(f"{which} failed: {type(error).__name__}: {error}") from error


def _train(recipe: BranchRecipe, branch: Branch) -> BranchEnd:
    checkpoint = read_checkpoint(recipe.checkpoint)
    module = _module(recipe, checkpoint)
    data = recipe.make_data(branch.global_size, branch.seed)
    restore = Restore(checkpoint, recipe.rule, branch.factor)
    counted = CountExamples()
    trainer = _trainer(
        recipe,
        module,
        [restore, counted],
        max_steps=branch.steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, **data_arguments(data))
    if restore.rate is None or restore.learning_rate is None:
        raise ValueError(f"make_data gave no batch of {branch.global_size} examples.")
    value = _validated(recipe, module, data, [])
    if trainer.global_step < branch.steps and math.isfinite(value):
        rule = f"a branch must take its {branch.steps} optimizer steps"
        cause = "A callback, a time limit or an error of the data ended it"
        raise ValueError(f"{rule}, got {trainer.global_step}. {cause}.")
    return BranchEnd(
        value=value,
        learning_rate=restore.learning_rate,
        rate_rule=restore.rate.rule,
        seen=counted.seen,
    )


def measure_point(
    recipe: BranchRecipe,
    global_size: int,
    seed: int,
    noise_scale: Mapping[str, Any] | None,
) -> Point:
    """Validates the checkpoint, and measures noise scales at its frozen weights.

    Args:
        recipe: of the branches.
        global_size: of the run.
        seed: of the batches that the noise scale is measured with.
        noise_scale: arguments of ``measure_noise_scale``; None: it is not measured.

    Raises:
        ValueError: the checkpoint is not that of the module, or the metric is not logged.
        TrialError: the noise scale could not be measured.
    """
    with quiet(), seeded(seed, recipe.threads):
        checkpoint = read_checkpoint(recipe.checkpoint)
        module = _module(recipe, checkpoint)
        data = recipe.make_data(global_size, seed)
        value = _validated(recipe, module, data, [RestoreWeights(checkpoint)])
        if noise_scale is None:
            return Point(value, {})
        try:
            found = measure_noise_scale(module, _train_loader(data), **noise_scale)
        except Exception as error:
            fix = "Leave the noise scale out with noise_scale=False, or give arguments of"
            fix += " measure_noise_scale such as noise_scale={'loss_fn': ...}"
            cause = f"{type(error).__name__}: {error}"
            raise TrialError(f"{fix}: it could not be measured ({cause})") from error
    return Point(value, dict(found))


def _module(recipe: BranchRecipe, checkpoint: Mapping[str, Any]) -> Any:
    """A fresh module; its rate is that of the checkpoint, which the branch changes later."""
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    rate = groups[0].get("lr")
    module = recipe.make_module({"learning_rate": None if rate is None else float(rate)})
    if not isinstance(module, either(L.LightningModule)):
        rule = "make_module must give a LightningModule"
        raise TypeError(f"{rule}, got {module!r}.")
    return module


def _validated(
    recipe: BranchRecipe,
    module: Any,
    data: Any,
    callbacks: Sequence[L.Callback],
) -> float:
    """The metric of a module on the validation data."""
    trainer = _trainer(recipe, module, callbacks)
    given = data_arguments(data)
    if "datamodule" in given:
        trainer.validate(module, datamodule=data, verbose=False)
    elif "val_dataloaders" in given:
        trainer.validate(module, given["val_dataloaders"], verbose=False)
    else:
        rule = "make_data must give a pair (training loader, validation loader) or a"
        raise ValueError(f"{rule} LightningDataModule, got {type(data).__name__}.")
    if recipe.metric not in trainer.callback_metrics:
        logged = sorted(trainer.callback_metrics)
        fix = "Log it in validation_step under that name"
        raise ValueError(f"{fix}: metric {recipe.metric!r} is not among the logged ones {logged}.")
    return float(trainer.callback_metrics[recipe.metric])


def _trainer(
    recipe: BranchRecipe,
    module: Any,
    callbacks: Sequence[L.Callback],
    **forced: Any,
) -> L.Trainer:
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **recipe.trainer_options,
        "max_epochs": -1,
        "max_steps": 1,
        # the checkpoint is restored before a callback of the user's sees the module
        "callbacks": [*callbacks, *recipe.trainer_options.get("callbacks", ())],
        **forced,
    }
    # a module of pytorch_lightning needs the Trainer of that package
    package = importlib.import_module(package_of(module) or "lightning.pytorch")
    trainer: L.Trainer = package.Trainer(**options)
    return trainer


def _train_loader(data: Any) -> Any:
    """The training loader of what ``make_data`` gives."""
    if isinstance(data, tuple):
        return data[0]
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()
