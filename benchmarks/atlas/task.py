"""What a task of the atlas is, and the study of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from lightning_noise.study import BatchSizeStudy, Budget, Goal, Search, Workers

EARLY, LATE = "early", "late"
JOURNALS = Path("runs/atlas")
SEARCH = Search(trials=8, seeds=4)
LEAN = Search(trials=4, seeds=3, widen=1)  # of tasks whose runs take long


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the atlas.

    Args:
        name: of the rows, and of the journal of the study.
        title: in tables.
        optimizer: "SGD", "momentum" or "Adam".
        make_module: from parameters to a fresh module.
        make_data: from (global_size, seed) to a training and a validation loader, or to a training
            loader alone.
        goals: each with rates of its own. One is called LATE.
        further_goals: read from the runs of the late one. One of all goals is called EARLY.
        sizes: batch sizes of the study, in examples of the loader.
        search_space: with ``"learning_rate"``.
        budget: of one run.
        validate_every: examples between validations; ``None`` where all goals are read from the
            training.
        search: trials and reruns at each size.
        geometries: measured by ``atlas_noise`` beside the Euclidean one.
        loss_and_outputs: what the geometry "gauss_newton" needs.
        every_n_steps: the noise is measured in the first of so many steps.
        unit: of batch sizes in tables.
        per_example: units in one example of the loader.
        paper: row of McCandlish et al. 2018, table 1, that it may be read beside; "" for none.
    """

    name: str
    title: str
    optimizer: str
    make_module: Callable[[dict[str, Any]], L.LightningModule]
    make_data: Callable[[int, int], tuple[DataLoader, DataLoader] | DataLoader]
    goals: tuple[Goal, ...]
    further_goals: tuple[Goal, ...] = ()
    sizes: tuple[int, ...]
    search_space: Mapping[str, Any]
    budget: Budget
    validate_every: int | None = None
    search: Search = SEARCH
    geometries: tuple[str, ...] = ()
    loss_and_outputs: Callable[[Any, Any], Any] | None = None
    every_n_steps: int = 1
    unit: str = "examples"
    per_example: int = 1
    paper: str = ""

    @property
    def all_goals(self) -> tuple[Goal, ...]:
        """From the easiest to the hardest."""
        metric_goals = (*self.goals, *self.further_goals)
        hardest_last = metric_goals[0].mode == "min"
        return tuple(sorted(metric_goals, key=lambda goal: goal.target, reverse=hardest_last))

    def study(self, workers: int = 2) -> BatchSizeStudy:
        """The study of its critical batch size, with a journal of its own in ``runs/``."""
        return BatchSizeStudy(
            make_module=self.make_module,
            make_data=self.make_data,
            goal=self.goals,
            further_goals=self.further_goals,
            batch_sizes=self.sizes,
            search_space=self.search_space,
            search=self.search,
            budget=self.budget,
            workers=Workers(count=workers),
            storage=JOURNALS / f"{self.name}.journal",
            name=self.name,
            validate_every=self.validate_every,
            noise_scale=False,
        )
