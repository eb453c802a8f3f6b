"""Trains to a goal at many batch sizes, each with its own tuned learning rate, and fits b_crit."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from optuna.storages import BaseStorage

from lightning_noise.study.checks import (
    as_goals,
    check_executor,
    check_functions,
    check_sizes,
    further_of,
)
from lightning_noise.study.fingerprint import Fingerprint, fingerprint
from lightning_noise.study.goal import Budget, Goal
from lightning_noise.study.growth import earlier_spaces, spaces_in
from lightning_noise.study.opening import Opened, opened
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.progress import display
from lightning_noise.study.result import StudyResult
from lightning_noise.study.rows import rows_of
from lightning_noise.study.runners import started
from lightning_noise.study.schedule import make_schedule
from lightning_noise.study.settings import Search, Workers, check_records
from lightning_noise.study.space import Distributions, as_ranges, distributions
from lightning_noise.study.standing import standing
from lightning_noise.study.storage import UNKNOWN_CODE, Shelf, as_setting, stored_settings
from lightning_noise.study.task import Recipe, RunKey
from lightning_noise.study.told import told_by
from lightning_noise.study.work import Desk, work


class BatchSizeStudy:
    """Measures the critical batch size by experiment: steps to a goal at many batch sizes.

    At every batch size the points of a quasi-random search (Optuna's QMC sampler, a scrambled Sobol
    sequence) are run with one seed, those that reach the goal in the fewest steps again with a
    second one, and so on: successive halving, by the mean of ln S over the seeds. The winner is run
    again with seeds that chose nothing. The best of many trials is optimistically biased, so S(B)
    is that of these reruns. Every run is stored with its readings as soon as it ends. A study that
    was stopped or killed continues where it was and gives the same table; one with more trials,
    seeds, batch sizes, goals or budget, or with wider ranges, trains only what is missing.

    Args:
        make_module: from parameters (a dict with ``"learning_rate"`` and what else is searched) to
            a fresh ``LightningModule``.
        make_data: from (global_size, seed) to a loader, a pair of loaders (training, validation)
            or a ``LightningDataModule`` whose batches make up ``global_size`` examples per step.
            Use ``drop_last``: every step counts as ``global_size`` examples.
        goal: one :class:`Goal`, or several that are all read from the same runs.
        batch_sizes: global batch sizes to train at, in examples.
        search_space: ``"learning_rate"`` and what else is searched, with a range for each:
            ``LogUniform(low, high)`` or ``(low, high)``, ``Uniform(low, high)``, ``Choice((...))``
            or a list, :class:`Momentum`; for the learning rate also :class:`CentredLearningRate`
            and for the length of a schedule :class:`DecaySteps`, ranges that move with the batch
            size.
        budget: what one run may use.
        further_goals: more goals of the table, each read from the runs of the next harder goal in
            ``goal`` (of the same metric): nothing is tuned or trained for them.
        search: trials, seeds and pruning, a :class:`Search`.
        workers: processes that train, a :class:`Workers`.
        storage: of finished runs: a path of a journal file (None: ``<name>.journal``), any URL of
            Optuna's (``sqlite:///a.db``), or an Optuna storage. Any number of processes on any
            machines can run a study in a PostgreSQL or MySQL database at the same time; in every
            other storage, one. A finished study can also be read where nothing can be written.
        name: of the study, inside the storage.
        validate_every: examples between validations (at least a step); None: a hundredth of the
            budget at each size, or what its stored runs had.
        noise_scale: measures B_simple in the reruns; a dict gives arguments of
            ``GradientNoiseScale`` (with the geometry "hessian" also B_noise).
        trainer_options: more arguments of ``Trainer``, such as ``{"accelerator": "gpu"}``; CPU by
            default.
        progress: shows a bar, or lines where the output is no terminal; None: on a terminal, not
            in continuous integration.
        unknown: not accepted; the error names the record that an argument belongs to.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Source: McCandlish et al. 2018, appendix A; the protocol is that of Shallue et al. 2018,
    arXiv 1811.03600, section 4.
    """

    def __init__(
        self,
        make_module: Callable[[dict[str, Any]], L.LightningModule],
        make_data: Callable[[int, int], Any],
        goal: Goal | Sequence[Goal],
        batch_sizes: Sequence[int],
        *,
        search_space: Mapping[str, Any],
        budget: Budget,
        further_goals: Goal | Sequence[Goal] = (),
        search: Search = Search(),
        workers: Workers = Workers(),
        storage: str | Path | BaseStorage | None = None,
        name: str = "study",
        validate_every: int | None = None,
        noise_scale: bool | Mapping[str, Any] = True,
        trainer_options: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        **unknown: Any,
    ) -> None:
        check_records(search, workers, unknown)
        check_functions(make_module, make_data)
        self.goals = as_goals(goal)
        self.further_goals = further_of(further_goals, self.goals)
        self.batch_sizes = check_sizes(batch_sizes, budget)
        self.search_space = as_ranges(search_space)
        self.search = search
        self.workers = workers
        self.storage = storage
        self.name = name
        self.progress = progress
        self._budget = budget
        self._keeps_interval = validate_every is None
        schedule = make_schedule(
            self.goals,
            self.batch_sizes,
            budget,
            validate_every,
        )
        self.recipe = Recipe(
            make_module=make_module,
            make_data=make_data,
            goals=self.goals,
            validate_every=schedule.validate_every,
            budget_steps=schedule.budget_steps,
            early_stop=search.prune,
            noise_scale=_noise_arguments(noise_scale),
            trainer_options=dict(trainer_options or {}),
            threads=workers.threads,
        )

    def run(
        self,
        *,
        storage: str | Path | BaseStorage | None = None,
        accept_changes: bool = False,
        executor: Executor | None = None,
    ) -> StudyResult:
        """Runs what the storage does not hold yet, and returns the result of all runs.

        Args:
            storage: instead of the study's own; None: the study's own.
            accept_changes: keeps stored runs although ``make_module``, ``make_data``,
                ``trainer_options`` or ``noise_scale``, or code that they use, are not those that
                the runs were made with. The result's warnings report it.
            executor: of ``concurrent.futures``, which trains instead of the ``workers``: a process
                pool, or that of Dask or of another job queue. It stays open.

        Raises:
            TypeError: ``executor`` is not an ``Executor``.
            StorageError: the storage is in use, cannot be used, or holds a study of this name with
                other settings or, without ``accept_changes``, with runs of other code.
            TrialError: a run raised an error, its process died three times, or the executor is
                broken. Finished runs are kept.
        """
        if storage is None:
            storage = self.storage
        check_executor(executor)
        with opened(storage, self.name) as found:
            plans, shelves, notes = found.claims.patiently(
                lambda: self._set_up(found, accept_changes=accept_changes)
            )
            desk = Desk(plans, shelves, found.claims)
            if desk.open_tasks():
                found.check_writing()
                self._work(desk, executor)
        if UNKNOWN_CODE in notes:
            warnings.warn(f"study {self.name!r}: {UNKNOWN_CODE}", stacklevel=2)
        table = rows_of(plans, self.goals, desk.done, self.further_goals)
        return StudyResult.from_table(table, warnings=[*notes, *told_by(plans, desk.done)])

    def _set_up(
        self,
        storage: Opened,
        *,
        accept_changes: bool,
    ) -> tuple[list[SizePlan], dict[int, Shelf], list[str]]:
        """Plan and shelf of every batch size, and notes on the code behind the stored runs."""
        with storage.claims.alone():
            plans = []
            shelves = {}
            for size in self.batch_sizes:
                plan = self._plan(size, stored_settings(storage, self.name, size))
                plans.append(plan)
                shelves[size] = self._shelf(storage, plan)
            notes = self._agree(shelves.values(), accept_changes=accept_changes)
            return plans, shelves, notes

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        recipe = self.recipe
        parts = {
            "make_module": recipe.make_module,
            "make_data": recipe.make_data,
            "trainer_options": recipe.trainer_options,
            "noise_scale": recipe.noise_scale,
        }
        return fingerprint(parts)

    def _agree(self, shelves: Iterable[Shelf], *, accept_changes: bool) -> list[str]:
        """Notes on the code behind the stored runs, each text once."""
        notes: dict[str, None] = {}
        for shelf in shelves:
            found = shelf.agree(self._fingerprint, accept_changes=accept_changes)
            notes |= dict.fromkeys(found)
        return list(notes)

    def _work(self, desk: Desk, executor: Executor | None) -> None:
        with (
            started(self._recipe_of(desk.plans), self.workers.count, executor) as runner,
            display(self.name, progress=self.progress) as shown,
        ):
            most = 0  # runs at the same time

            def report(running: Collection[RunKey]) -> None:
                nonlocal most
                most = max(most, len(running))
                shown.show(standing(desk.plans, self.goals, desk.done, running, most))

            work(desk, runner, report)

    def _plan(self, global_size: int, stored: Mapping[str, Any] | None = None) -> SizePlan:
        """The protocol at a batch size, of which runs with the ``stored`` settings may exist."""
        space = distributions(self.search_space, global_size)
        budget_steps = self.recipe.budget_steps[global_size]
        every = self.recipe.validate_every[global_size]
        earlier: tuple[Distributions, ...] = ()
        if stored is not None:
            earlier = earlier_spaces(self.name, spaces_in(stored), space)
            if self._keeps_interval and stored["validate_every"] <= budget_steps:
                every = stored["validate_every"]
                budget_steps = self._budget.steps_at(global_size) // every * every
        return SizePlan(
            global_size=global_size,
            space=space,
            goals=self.goals,
            search=self.search,
            budget_steps=budget_steps,
            every=every,
            earlier=earlier,
        )

    def _recipe_of(self, plans: Sequence[SizePlan]) -> Recipe:
        """The recipe with the intervals of these plans."""
        return self.recipe._replace(
            validate_every={plan.global_size: plan.every for plan in plans},
            budget_steps={plan.global_size: plan.budget_steps for plan in plans},
        )

    def _shelf(self, storage: Opened, plan: SizePlan) -> Shelf:
        noise_scale = None
        if self.recipe.noise_scale is not None:
            noise_scale = as_setting(self.recipe.noise_scale)
        settings = {
            "goals": list(map(asdict, self.goals)),
            "budget_steps": plan.budget_steps,
            "validate_every": plan.every,
            "noise_scale": noise_scale,
            **asdict(self.search),
        }
        return Shelf(storage, self.name, plan, settings)


def _noise_arguments(noise_scale: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of the callback; None where the noise scale is not measured."""
    if isinstance(noise_scale, Mapping):
        return dict(noise_scale)
    if noise_scale:
        return {}
    return None
