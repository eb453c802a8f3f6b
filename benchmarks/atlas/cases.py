"""What was measured of a task up to a goal: the critical batch size, and the noise scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.atlas.atlas_study import result_of
from benchmarks.atlas.averages import Bounded, Group, bounded_averages, joined, pooled
from benchmarks.atlas.tasks import TASKS
from lightning_noise import CriticalBatchSize
from lightning_noise.report.terms import REACHED

GEOMETRIES = {
    "euclidean": "B_simple",
    "optimizer": "B_optimizer",
    "hessian": "B_noise",
    "gauss_newton": "B_gauss_newton",
}


@dataclass(frozen=True)
class Case:
    """One goal of a task. All sizes are in examples of its loader.

    Args:
        task: its name.
        goal: its name.
        fit: of the study; ``None`` where its steps have no fit.
        steps: measured, by batch size.
        global_size: of the runs whose noise was measured.
        learning_rate: of these runs.
        seeds: of them that reached the goal.
        failed: of them that did not.
        groups: resolved groups of steps by geometry, those of one run on average.
        averages: by geometry and name of the average.
    """

    task: str
    goal: str
    fit: CriticalBatchSize | None
    steps: dict[float, float]
    global_size: int
    learning_rate: float
    seeds: int
    failed: int
    groups: dict[str, list[Group]]
    averages: dict[tuple[str, str], Bounded]

    @property
    def is_bounded(self) -> bool:
        """Whether the interval of B_crit has both ends."""
        return self.fit is not None and self.fit.low is not None and self.fit.high is not None


def cases(noise_rows: Sequence[Any], study_rows: Sequence[Any]) -> list[Case]:
    """All goals of all tasks of which both is known, tasks and goals in their order."""
    found = []
    for name, task in TASKS.items():
        mine = [row for row in noise_rows if row.task == name]
        if not mine or all(row.task != name for row in study_rows):
            continue
        result = result_of(study_rows, name)
        goals = [goal.name for goal in task.all_goals]
        for number, goal in enumerate(goals):
            until = goals[: number + 1]
            reached = {r.seed for r in mine if r.goal == goal and r.status == REACHED}
            if not reached:
                continue
            rows = [row for row in mine if row.goal in until and row.seed in reached]
            groups = groups_of(rows, until, len(reached))
            size = rows[0].global_size
            averages = {}
            for geometry, listed in groups.items():
                for average, value in bounded_averages(listed, size).items():
                    averages[geometry, average] = value
            case = Case(
                task=name,
                goal=goal,
                fit=result.fits.get(goal),
                steps=result.steps(goal),
                global_size=size,
                learning_rate=rows[0].learning_rate,
                seeds=len(reached),
                failed=len({row.seed for row in mine}) - len(reached),
                groups=groups,
                averages=averages,
            )
            found.append(case)
    return found


def groups_of(rows: Sequence[Any], goals: Sequence[str], seeds: int) -> dict[str, list[Group]]:
    """Resolved groups by geometry; a geometry that is nowhere resolved is absent.

    Sums are over all seeds, steps are those of one run.
    """
    found = {}
    for geometry in dict.fromkeys(row.geometry for row in rows):
        groups = []
        for goal in goals:
            bins: dict[int, list[Any]] = {}
            for row in rows:
                if row.geometry == geometry and row.goal == goal:
                    bins.setdefault(row.bin, []).append(row)
            for number in sorted(bins):
                together = pooled(bins[number]).normalised()
                groups.append(together._replace(steps=together.steps / seeds))
        listed = joined(groups)
        if listed:
            found[geometry] = listed
    return found
