"""The tidy table of a study: one row per run and goal, plain values only."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import on_boundary
from lightning_noise.study.task import Done, RunKey

RATE = "learning_rate"


def rows_of(plans: Sequence[SizePlan], goals: Sequence[Goal], done: Done) -> list[dict[str, Any]]:
    """All rows, by goal, size, phase, trial and seed: the order in which runs ended does not show.

    A rerun has a row only for the goals whose winner it is.
    """
    noise = sorted({name for outcome in done.values() for name in outcome.noise})
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
    here = [key for key in done if key.global_size == plan.global_size]
    for key in sorted(here, key=_order):
        outcome = done[key]
        if goal not in outcome.goals:
            continue
        found = outcome.goals[goal]
        parameters = settings[key.trial]
        searched = sorted(name for name in parameters if name != RATE)
        examples = None if found.steps is None else found.steps * key.global_size
        yield {
            "goal": goal.name,
            "global_size": key.global_size,
            "seed": key.seed,
            "trial": key.trial,
            "phase": key.phase,
            "learning_rate": parameters.get(RATE),
            **{f"param_{name}": parameters[name] for name in searched},
            "status": found.status,
            "steps": found.steps,
            "examples": examples,
            "best_value": found.best_value,
            "mode": goal.mode,
            "boundary": on_boundary(plan.space, parameters),
            "best": key.trial == winner and not key.is_rerun,
            "pruned": outcome.pruned,
            "refined": key.trial >= plan.search.trials and not key.is_rerun,
            "budget_steps": plan.budget_steps,
            **{name: outcome.noise.get(name) for name in noise},
        }


def _order(key: RunKey) -> tuple[bool, int, int]:
    return key.is_rerun, key.trial, key.seed
