"""One run: trains a fresh module until its goals are decided or its steps are used up."""

import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_noise.hosts.lightning.callback import GradientNoiseScale
from lightning_noise.hosts.lightning.two_packages import (
    MisconfigurationException,
    either,
    package_of,
)
from lightning_noise.say.log_keys import name_of
from lightning_noise.study.goal_watch import WatchGoals
from lightning_noise.study.task import RERUN, Recipe, Record, Task


def run(recipe: Recipe, task: Task) -> Record:
    """Does ``task`` in this process.

    Random state, thread count and environment are restored afterwards. A model in which the noise
    scale cannot be measured is trained without it, and the record says why.

    Raises:
        ValueError: there is no training batch, or a goal holds from the start or reads a metric
            that the module does not log.
    """
    if recipe.noise_scale is None or task.phase != RERUN:
        return _run(recipe, task, None)
    arguments = {**recipe.noise_scale, "verbose": False}
    try:
        return _run(recipe, task, GradientNoiseScale(**arguments))
    except MisconfigurationException as refusal:
        record = _run(recipe, task, None)
        return record._replace(warning=f"the noise scale was not measured: {refusal}")


def _run(recipe: Recipe, task: Task, noise: GradientNoiseScale | None) -> Record:
    watch = WatchGoals(
        task.goals,
        task.global_size,
        early_stop=recipe.early_stop,
        last_step=task.max_steps,
    )
    with quiet(), seeded(task.seed, recipe.threads):
        module = recipe.make_module(dict(task.parameters))
        data = recipe.make_data(task.global_size, task.seed)
        callbacks = [*recipe.trainer_options.get("callbacks", ()), watch]
        if noise is not None:
            callbacks.append(noise)
        trainer = _trainer(recipe, task, callbacks, module)
        trainer.fit(module, **data_arguments(data))
    if not watch.readings:
        metrics = [goal.metric for goal in task.goals]
        raise ValueError(
            f"training at global size {task.global_size} gave no reading of {metrics}: "
            "make_data gives no batch of that size, or nothing was validated."
        )
    noise_scales = {}
    if noise is not None:
        noise_scales = _trajectory(noise)
    trained = trainer.global_step
    return Record(
        trained=trained,
        ended=trained < task.max_steps and not watch.stopped,
        readings=watch.readings,
        loss_failed=watch.loss_failed,
        noise=noise_scales,
    )


def _trainer(
    recipe: Recipe,
    task: Task,
    callbacks: Sequence[L.Callback],
    module: L.LightningModule,
) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": -1,
        "check_val_every_n_epoch": None,
    }
    validated = [goal for goal in task.goals if goal.on == "validation"]
    if validated:
        settings["num_sanity_val_steps"] = -1
        settings["val_check_interval"] = recipe.validate_every[task.global_size]
    else:
        settings["num_sanity_val_steps"] = 0
        settings["val_check_interval"] = None
        settings["limit_val_batches"] = 0
    options = {
        **settings,
        **recipe.trainer_options,
        "callbacks": list(callbacks),
        "max_steps": recipe.budget_steps[task.global_size],
    }
    # a module of pytorch_lightning needs the Trainer of that package
    package = importlib.import_module(package_of(module) or "lightning.pytorch")
    trainer: L.Trainer = package.Trainer(**options)
    return trainer


def data_arguments(data: Any) -> dict[str, Any]:
    """Arguments of ``Trainer.fit`` for what ``make_data`` gives."""
    if isinstance(data, either(L.LightningDataModule)):
        return {"datamodule": data}
    if isinstance(data, tuple) and len(data) == 2:
        return {"train_dataloaders": data[0], "val_dataloaders": data[1]}
    return {"train_dataloaders": data}


def _trajectory(noise: GradientNoiseScale) -> dict[str, float]:
    """Noise scales at the start (first resolved), on average and at the end, in examples.

    What was not resolved is absent.
    """
    found: dict[str, float] = {}
    for key, trajectory in noise.trajectories().items():
        first = trajectory.first
        last = trajectory.last
        if first is None or last is None or trajectory.mean is None:
            continue
        name = name_of(key.geometry)
        if key.optimizer:
            name += f"_{key.optimizer}"
        found[f"{name}_start"] = first.noise_scale
        found[f"{name}_average"] = trajectory.mean
        found[f"{name}_end"] = last.noise_scale
    return found


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """Seeds everything for a run, and restores random state, threads and environment after it."""
    threads_before = torch.get_num_threads()
    seed_before = os.environ.get("PL_GLOBAL_SEED")
    with isolate_rng():
        try:
            torch.set_num_threads(threads)
            L.seed_everything(seed, verbose=False)
            yield
        finally:
            torch.set_num_threads(threads_before)
            if seed_before is None:
                os.environ.pop("PL_GLOBAL_SEED", None)
            else:
                os.environ["PL_GLOBAL_SEED"] = seed_before


LOGGERS = (
    "lightning.pytorch",
    "lightning.fabric",
    "pytorch_lightning",
    "lightning_fabric",
    "lightning_utilities",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's messages about devices and loaders, which come once per run."""
    with ExitStack() as stack:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", PossibleUserWarning)
        # a warning that Lightning 2.6 itself causes
        leaf = ".isinstance.treespec, LeafSpec"
        warnings.filterwarnings("ignore", message=leaf, category=FutureWarning)
        yield
