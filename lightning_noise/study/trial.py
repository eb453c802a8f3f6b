"""One run: trains a fresh module with Lightning until its goals are decided or its steps are used up."""

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_noise.hosts.lightning.callback import GradientNoiseScale
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException, either, package_of
from lightning_noise.study.goal import Goal, GoalOutcome
from lightning_noise.study.goal_watch import WatchGoals

SEARCH, RERUN = "search", "rerun"
NAMES = {"euclidean": "b_simple", "hessian": "b_noise"}  # of noise scales in the table; b_<geometry> for others


class Task(NamedTuple):
    """One run to do: which (the first four say), with what parameters, for how many steps, and the goals that it is for."""

    global_size: int
    phase: str
    trial: int
    seed: int
    parameters: dict[str, Any]
    max_steps: int
    goals: tuple[int, ...]  # positions in the study's goals

    @property
    def key(self) -> tuple[int, str, int, int]:
        """What tells this run from all others of the study."""
        return self.global_size, self.phase, self.trial, self.seed


class Outcome(NamedTuple):
    """What came of a run: of each goal of its task, whether it was ended before its budget, and noise scales on the way."""

    goals: dict[int, GoalOutcome]
    pruned: bool
    noise: dict[str, float]
    warning: str | None = None


class Recipe(NamedTuple):
    """What all runs of a study share; sent once to every worker process."""

    make_module: Callable[[dict[str, Any]], L.LightningModule]
    make_data: Callable[[int, int], Any]
    goals: tuple[Goal, ...]
    validate_every: dict[int, int]  # optimizer steps, by global size
    budget_steps: dict[int, int]
    early_stop: bool
    noise_scale: Mapping[str, Any] | None  # arguments of the callback in reruns
    trainer_options: Mapping[str, Any]
    threads: int


def run(recipe: Recipe, task: Task) -> Outcome:
    """Does ``task`` in this process; random state, thread count and environment are as before afterwards.

    A model in which the noise scale cannot be measured is trained without that, and the outcome says why.

    Raises:
        ValueError: no training batch, or a goal that holds from the start or that the module does not log.
    """
    if recipe.noise_scale is None or task.phase != RERUN:
        return _run(recipe, task, None)
    try:
        return _run(recipe, task, GradientNoiseScale(**{**recipe.noise_scale, "verbose": False}))
    except MisconfigurationException as refusal:
        outcome = _run(recipe, task, None)
        return outcome._replace(warning=f"the noise scale was not measured: {refusal}")


def _run(recipe: Recipe, task: Task, noise: GradientNoiseScale | None) -> Outcome:
    goals = {i: recipe.goals[i] for i in task.goals}
    watch = WatchGoals(goals, task.global_size, early_stop=recipe.early_stop, last_step=task.max_steps)
    with _quiet(), _seeded(task.seed, recipe.threads):
        module = recipe.make_module(dict(task.parameters))
        data = recipe.make_data(task.global_size, task.seed)
        callbacks = [*recipe.trainer_options.get("callbacks", ()), watch, *([] if noise is None else [noise])]
        _trainer(recipe, task, callbacks, module).fit(module, **_data_arguments(data))
    if not watch.readings:
        raise ValueError(
            f"training at global size {task.global_size} gave no reading of {[recipe.goals[i].metric for i in task.goals]}: "
            "make_data gives no batch of that size, or nothing was validated."
        )
    cut = watch.stopped or task.max_steps < recipe.budget_steps[task.global_size]
    return Outcome(watch.outcomes(), cut and not watch.all_diverged, _trajectory(noise))


def _trainer(recipe: Recipe, task: Task, callbacks: Sequence[L.Callback], module: L.LightningModule) -> L.Trainer:
    validates = any(recipe.goals[i].on == "validation" for i in task.goals)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": -1,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": -1 if validates else 0,
        "val_check_interval": recipe.validate_every[task.global_size] if validates else None,
    }
    if not validates:
        settings["limit_val_batches"] = 0
    options = {
        **settings,
        **recipe.trainer_options,
        "callbacks": list(callbacks),
        "max_steps": recipe.budget_steps[task.global_size],
    }
    package = importlib.import_module(
        package_of(module) or "lightning.pytorch"
    )  # a module of its twin needs that one's Trainer
    trainer: L.Trainer = package.Trainer(**options)
    return trainer


def _data_arguments(data: Any) -> dict[str, Any]:
    if isinstance(data, either(L.LightningDataModule)):
        return {"datamodule": data}
    if isinstance(data, tuple) and len(data) == 2:
        return {"train_dataloaders": data[0], "val_dataloaders": data[1]}
    return {"train_dataloaders": data}


def _trajectory(noise: GradientNoiseScale | None) -> dict[str, float]:
    """Noise scales at the start (first resolved), on average and at the end, in examples; what was not resolved is absent."""
    found: dict[str, float] = {}
    for key, way in (noise.trajectories() if noise is not None else {}).items():
        name = NAMES.get(key.geometry, f"b_{key.geometry}") + (f"_{key.optimizer}" if key.optimizer else "")
        if way.first is not None and way.mean is not None and way.last is not None:
            found |= {f"{name}_start": way.first.b_simple, f"{name}_average": way.mean, f"{name}_end": way.last.b_simple}
    return found


@contextmanager
def _seeded(seed: int, threads: int) -> Iterator[None]:
    before, named = torch.get_num_threads(), os.environ.get("PL_GLOBAL_SEED")
    with isolate_rng():
        try:
            torch.set_num_threads(threads)
            L.seed_everything(seed, verbose=False)
            yield
        finally:
            torch.set_num_threads(before)
            if named is None:
                os.environ.pop("PL_GLOBAL_SEED", None)
            else:
                os.environ["PL_GLOBAL_SEED"] = named


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes on devices, and its advice on loaders, once a run, would bury everything else."""
    with ExitStack() as stack:
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric", "lightning_utilities"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings(
            "ignore", message=".isinstance.treespec, LeafSpec", category=FutureWarning
        )  # Lightning 2.6's own
        yield
