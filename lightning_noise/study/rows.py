"""The tidy table of a study: one row per run and goal, plain values only."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import on_boundary
from lightning_noise.study.task import Done, RunKey

RATE = "learning_rate"


def rows_of(
    plans: Sequence[SizePlan],
    goals: Sequence[Goal],
    done: Done,
) -> list[dict[str, Any]]:
    """All rows, by goal, size, phase, trial and seed: the order in which runs ended does not show.

    A rerun has a row only for the goals whose winner it is.
    """
    measured: set[str] = set()
    for outcome in done.values():
        measured.update(outcome.noise)
    noise = sorted(measured)
    found: list[dict[str, Any]] = []
    for goal in goals:
        for plan in plans:
            found += _of_size(goal, plan, done, noise)
    return found


def _of_size(
    goal: Goal,
    plan: SizePlan,
    done: Done,
    noise: Sequence[str],
) -> Iterable[dict[str, Any]]:
    settings = plan.settings(done)
    winner = plan.winners(done).get(goal)
    for key in sorted(done, key=_order):
        outcome = done[key]
        if key.global_size != plan.global_size or goal not in outcome.goals:
            continue
        found = outcome.goals[goal]
        parameters = settings[key.trial]
        others = {}
        for name in sorted(parameters):
            if name != RATE:
                others[f"param_{name}"] = parameters[name]
        examples = None
        if found.steps is not None:
            examples = found.steps * key.global_size
        measured: dict[str, float | None] = dict.fromkeys(noise)
        measured.update(outcome.noise)
        yield {
            "goal": goal.name,
            "global_size": key.global_size,
            "seed": key.seed,
            "trial": key.trial,
            "phase": key.phase,
            "learning_rate": parameters.get(RATE),
            **others,
            "status": found.status,
            "steps": found.steps,
            "examples": examples,
            "best_value": found.best_value,
            "mode": goal.mode,
            "metric": goal.metric,
            "target": goal.target,
            "boundary": on_boundary(plan.space, parameters),
            "best": key.trial == winner and not key.is_rerun,
            "pruned": outcome.pruned,
            "refined": key.trial >= plan.search.trials and not key.is_rerun,
            "budget_steps": plan.budget_steps,
            **measured,
        }


def _order(key: RunKey) -> tuple[bool, int, int]:
    return key.is_rerun, key.trial, key.seed
