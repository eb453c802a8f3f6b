"""Trains to a goal at many batch sizes, each with its own tuned learning rate, and fits the critical batch size."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from optuna.storages import BaseStorage

from lightning_noise.study.checks import check_count, check_functions, check_names, check_sizes, check_space
from lightning_noise.study.fingerprint import Fingerprint, fingerprint
from lightning_noise.study.goal import Budget, Goal
from lightning_noise.study.opening import Opened, opened
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.progress import bar
from lightning_noise.study.result import StudyResult
from lightning_noise.study.rows import rows_of
from lightning_noise.study.runner import Runner, started
from lightning_noise.study.space import distributions, range_of
from lightning_noise.study.storage import UNKNOWN_CODE, Key, Shelf, in_words
from lightning_noise.study.trial import Outcome, Recipe, Task


class BatchSizeStudy:
    """Measures the critical batch size by experiment: steps to a goal at many batch sizes, each with well tuned parameters.

    At every batch size a quasi-random search (Optuna's QMC sampler, a scrambled Sobol sequence) finds the parameters that reach
    the goal in the fewest steps, ``refine`` more trials look closer around the winner, and the winner is run again with fresh
    seeds: the best of many trials is too good by its luck, so S(B) is that of the reruns. Every run that ends is kept at once,
    and a study that was stopped or killed goes on where it was and gives the same table.

    Args:
        make_module: parameters (a dict with ``"learning_rate"`` and what else is searched) → a fresh ``LightningModule``.
        make_data: (global_size, seed) → a loader, a pair of loaders (training, validation) or a ``LightningDataModule`` whose
            batches make up ``global_size`` examples a step. Use ``drop_last``: every step counts as ``global_size`` examples.
        goal: one :class:`Goal`, or several that are read from the same runs.
        batch_sizes: global sizes to train at, in examples.
        search_space: ``"learning_rate"`` and what else is searched; for each ``LogUniform(low, high)`` or ``(low, high)``,
            ``Uniform(low, high)``, ``Choice((...))`` or a list; for the learning rate also :class:`CentredLearningRate`, a
            range that moves with the batch size.
        trials: runs of the search at each batch size; a power of two fills the space evenly.
        seeds: reruns of each winner.
        budget: what one run may use.
        storage: of finished runs: a path of a journal file (None: ``<name>.journal``), any URL of Optuna's
            (``sqlite:///a.db``), or an Optuna storage. One process at a time may run a study.
            A finished study can also be read where nothing can be written.
        name: of the study, inside the storage.
        refine: runs of the closer search for each winner; 0 leaves it out.
        seed: all runs of the search have it, the reruns the following ones.
        prune: ends runs whose goals are decided or can no longer be won, which never changes a winner. False gives every run
            its whole budget, which the best value under a fixed budget and the share of the space that reaches the goal need.
        validate_every: examples between validations (at least a step); None: a hundredth of the budget at each size.
        noise_scale: measures B_simple in the reruns; a dict gives arguments of ``GradientNoiseScale`` (with the
            geometry "hessian" also B_noise, where the version has it).
        workers: processes that train; 0 trains in this one.
        threads: of torch in each process. Another number changes rounding alone, so a study may go
            on with it.
        trainer_options: more arguments of ``Trainer``, such as ``{"accelerator": "gpu"}``; CPU by default.
        progress: shows a bar; None: on a terminal, not in continuous integration.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Source: McCandlish et al. 2018, appendix A; the protocol is that of Shallue et al. 2018, arXiv 1811.03600, section 4.
    """

    def __init__(
        self,
        make_module: Callable[[dict[str, Any]], L.LightningModule],
        make_data: Callable[[int, int], Any],
        goal: Goal | Sequence[Goal],
        batch_sizes: Sequence[int],
        search_space: Mapping[str, Any],
        trials: int,
        seeds: int,
        budget: Budget,
        storage: str | Path | BaseStorage | None = None,
        *,
        name: str = "study",
        refine: int = 0,
        seed: int = 0,
        prune: bool = True,
        validate_every: int | None = None,
        noise_scale: bool | Mapping[str, Any] = True,
        workers: int = 2,
        threads: int = 1,
        trainer_options: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> None:
        check_functions(make_module, make_data)
        self.goals = tuple(goal) if isinstance(goal, (list, tuple)) else (goal,)
        check_names(self.goals)
        self.batch_sizes = check_sizes(batch_sizes, budget)
        for label, count in {"trials": trials, "seeds": seeds, "threads": threads}.items():
            check_count(label, count, 1)
        for label, count in {"refine": refine, "workers": workers, "seed": seed}.items():
            check_count(label, count, 0)
        check_space(search_space)
        self.search_space = {key: range_of(key, given) for key, given in search_space.items()}
        self.name, self.storage, self.budget = name, storage, budget
        self.trials, self.seeds, self.refine, self.seed = trials, seeds, refine, seed
        self.prune, self.workers, self.progress = prune, workers, progress
        self.recipe = self._recipe(make_module, make_data, validate_every, noise_scale, threads, trainer_options or {})

    def _recipe(
        self,
        make_module: Callable[[dict[str, Any]], L.LightningModule],
        make_data: Callable[[int, int], Any],
        validate_every: int | None,
        noise_scale: bool | Mapping[str, Any],
        threads: int,
        trainer_options: Mapping[str, Any],
    ) -> Recipe:
        if validate_every is not None:
            check_count("validate_every", validate_every, 1)
        budgets = {size: self.budget.steps_at(size) for size in self.batch_sizes}
        every = {size: max(1, validate_every // size if validate_every else n // 100) for size, n in budgets.items()}
        if all(goal.on == "train" for goal in self.goals):
            every = dict.fromkeys(self.batch_sizes, 1)
        short = [size for size in self.batch_sizes if every[size] > budgets[size]]
        if short:
            raise ValueError(
                f"validate_every must not exceed the budget, got {validate_every!r}, which does at global sizes {short}."
            )
        noise = dict(noise_scale) if isinstance(noise_scale, Mapping) else {} if noise_scale else None
        whole = {size: steps // every[size] * every[size] for size, steps in budgets.items()}
        return Recipe(make_module, make_data, self.goals, every, whole, self.prune, noise, dict(trainer_options), threads)

    def run(self, *, accept_changes: bool = False) -> StudyResult:
        """Runs what the storage does not hold yet, and gives the result of all.

        Args:
            accept_changes: keeps stored runs although ``make_module``, ``make_data``,
                ``trainer_options`` or ``noise_scale``, or code that they use, are not those that
                the runs were made with. The result's warnings report it.

        Raises:
            StorageError: the storage is in use, cannot be used, or holds a study of this name with
                other settings or, without ``accept_changes``, with runs of other code.
            TrialError: a run raised an error, or its process died three times. Finished runs are kept.
        """
        plans = [self._plan(size) for size in self.batch_sizes]
        done: dict[Key, Outcome] = {}
        with opened(self.storage, self.name) as storage:
            shelves = {plan.global_size: self._shelf(storage, plan) for plan in plans}
            notes = self._agree(shelves.values(), accept_changes=accept_changes)
            for shelf in shelves.values():
                done |= {key: outcome for key, _, outcome in shelf.load()}
            if any(plan.next_tasks(done) for plan in plans):
                storage.check_writing()
                self._work(plans, done, shelves)
        table = rows_of(plans, self.goals, done)
        return StudyResult.from_table(table, warnings=[*notes, *_warnings(done)])

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        recipe = self.recipe
        names = ("make_module", "make_data", "trainer_options", "noise_scale")
        return fingerprint({name: getattr(recipe, name) for name in names})

    def _agree(self, shelves: Iterable[Shelf], *, accept_changes: bool) -> list[str]:
        """What the shelves say about the code behind their runs, each text once."""
        notes: dict[str, None] = {}
        for shelf in shelves:
            found = shelf.agree(self._fingerprint, accept_changes=accept_changes)
            notes |= dict.fromkeys(found)
        if UNKNOWN_CODE in notes:
            warnings.warn(f"study {self.name!r}: {UNKNOWN_CODE}", stacklevel=3)
        return list(notes)

    def _work(
        self,
        plans: Sequence[SizePlan],
        done: dict[Key, Outcome],
        shelves: Mapping[int, Shelf],
    ) -> None:
        total = _expected(plans, done)
        with (
            started(self.recipe, self.workers) as runner,
            bar(self.name, len(done), total, progress=self.progress) as shown,
        ):
            for task, outcome in _outcomes(runner, plans, done):
                shelves[task.global_size].keep(task, outcome)
                done[task.key] = outcome
                shown.show(len(done), _expected(plans, done), self._best(plans, done))

    def _best(self, plans: Sequence[SizePlan], done: Mapping[Key, Outcome]) -> dict[int, float]:
        found = {}
        for plan in plans:
            trial = plan.winners(done).get(0)
            steps = None if trial is None else done[plan.global_size, "search", trial, self.seed].goals[0].steps
            if steps is not None:
                found[plan.global_size] = steps
        return found

    def _plan(self, global_size: int) -> SizePlan:
        return SizePlan(
            global_size=global_size,
            space=distributions(self.search_space, global_size),
            goals=len(self.goals),
            trials=self.trials,
            refine=self.refine,
            seeds=self.seeds,
            seed=self.seed,
            budget_steps=self.recipe.budget_steps[global_size],
            every=self.recipe.validate_every[global_size],
            prune=self.prune,
        )

    def _shelf(self, storage: Opened, plan: SizePlan) -> Shelf:
        noise = self.recipe.noise_scale
        settings = {
            "goals": [asdict(goal) for goal in self.goals],
            "budget_steps": plan.budget_steps,
            "validate_every": plan.every,
            "noise_scale": None if noise is None else in_words(noise),
            **{key: getattr(self, key) for key in ("trials", "seeds", "refine", "seed", "prune")},
        }
        return Shelf(storage, self.name, plan.global_size, plan.space, settings)


def _expected(plans: Sequence[SizePlan], done: Mapping[Key, Outcome]) -> int:
    return sum(plan.expected(done) for plan in plans)


def _outcomes(
    runner: Runner,
    plans: Sequence[SizePlan],
    done: Mapping[Key, Outcome],
) -> Iterator[tuple[Task, Outcome]]:
    """Runs everything that the plans ask for, which depends on ``done``: put each outcome there."""
    running: set[Key] = set()
    while True:
        tasks = [task for plan in plans for task in plan.next_tasks(done)]
        waiting = [task for task in tasks if task.key not in running]
        for task in waiting[: runner.free]:
            running.add(task.key)
            runner.submit(task)
        if not running:
            return
        for task, outcome in runner.wait():
            yield task, outcome
            running.remove(task.key)


def _warnings(done: Mapping[Key, Outcome]) -> tuple[str, ...]:
    """What the runs had to say, each text once."""
    return tuple(dict.fromkeys(outcome.warning for outcome in done.values() if outcome.warning))
