"""Records that the modules of a study exchange: which run to do, what it left, and its result."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lightning_noise.report.terms import REPEAT, RERUN, SEARCH
from lightning_noise.study.goal import Goal, GoalOutcome

__all__ = [
    "REPEAT",
    "RERUN",
    "SEARCH",
    "Done",
    "Outcome",
    "Recipe",
    "Record",
    "RunKey",
    "Series",
    "Task",
]


class RunKey(NamedTuple):
    """Which run of a study it is.

    Attributes:
        global_size: examples in one optimizer step.
        phase: ``SEARCH``, ``REPEAT`` or ``RERUN``.
        trial: the point of the search space, counted at this batch size.
        seed: of the run.
    """

    global_size: int
    phase: str
    trial: int
    seed: int

    @property
    def is_rerun(self) -> bool:
        """Whether it is a rerun of a winner, which chooses nothing."""
        return self.phase == RERUN


class Task(NamedTuple):
    """One run to do.

    Attributes:
        global_size, phase, trial, seed: which run it is, see :class:`RunKey`.
        parameters: of the search space.
        max_steps: optimizer steps after which it is ended.
        goals: the goals that it is for.
    """

    global_size: int
    phase: str
    trial: int
    seed: int
    parameters: dict[str, Any]
    max_steps: int
    goals: tuple[Goal, ...]

    @property
    def key(self) -> RunKey:
        """What distinguishes this run from all others of the study."""
        return RunKey(
            global_size=self.global_size,
            phase=self.phase,
            trial=self.trial,
            seed=self.seed,
        )


class Series(NamedTuple):
    """Readings of one metric: the optimizer steps before each of them, and the values."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


class Record(NamedTuple):
    """What a run leaves. The result for any goal and any earlier end follows from it.

    Attributes:
        trained: optimizer steps that it took.
        ended: it ended by itself (a callback or a time limit of the user's), so that a longer run
            would leave no more.
        readings: ("validation" or "train", metric) → its readings: of every validation, and of
            every step for the training metrics that a goal read.
        loss_failed: step after which the training loss was not finite; None: it always was.
        noise: noise scales that it measured, by column of the table.
        warning: what it reports to the user, if anything.
    """

    trained: int
    ended: bool
    readings: dict[tuple[str, str], Series]
    loss_failed: int | None
    noise: dict[str, float]
    warning: str | None = None


class Outcome(NamedTuple):
    """The result of a run, as a study sees it that ends the run after ``trained`` steps.

    Attributes:
        goals: the result for each goal of its task.
        pruned: it was ended before its budget.
        trained: optimizer steps that count.
        noise: what else it measured, by column of the table: noise scales, and its seconds.
        warning: what it reports to the user, if anything.
    """

    goals: dict[Goal, GoalOutcome]
    pruned: bool
    trained: int
    noise: dict[str, float]
    warning: str | None = None


# Of a run that was done again, because it had been ended too early, all records are kept.
Done = Mapping[RunKey, tuple[Record, ...]]


class Recipe(NamedTuple):
    """What all runs of a study share; sent once to every worker process.

    Attributes:
        make_module: from parameters to a fresh LightningModule.
        make_data: from (global_size, seed) to loaders or a LightningDataModule.
        goals: of the study.
        validate_every: optimizer steps between validations, by global size.
        budget_steps: optimizer steps that a run may take, by global size.
        early_stop: ends a run once all its goals are decided.
        noise_scale: arguments of the callback in reruns; None: it is not measured.
        trainer_options: more arguments of the Trainer.
        threads: of torch in each process.
    """

    make_module: Callable[[dict[str, Any]], Any]
    make_data: Callable[[int, int], Any]
    goals: tuple[Goal, ...]
    validate_every: dict[int, int]
    budget_steps: dict[int, int]
    early_stop: bool
    noise_scale: Mapping[str, Any] | None
    trainer_options: Mapping[str, Any]
    threads: int
