"""The tidy table of a study: one row a run and goal, plain values only."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import Parameters, on_boundary
from lightning_noise.study.storage import Key
from lightning_noise.study.trial import RERUN, SEARCH, Outcome

Row = dict[str, Any]


def rows_of(plans: Sequence[SizePlan], goals: Sequence[Goal], done: Mapping[Key, Outcome]) -> list[Row]:
    """All rows, by goal, size, phase, trial and seed: the order in which runs ended does not show.

    A row of a rerun is there only for the goals whose winner it is.
    """
    noise = sorted({name for outcome in done.values() for name in outcome.noise})
    found = []
    for index, goal in enumerate(goals):
        for plan in plans:
            settings, winner = plan.settings(done), plan.winners(done).get(index)
            keys = [key for key in done if key[0] == plan.global_size and index in done[key].goals]
            for key in sorted(keys, key=lambda key: (key[1] == RERUN, key[2], key[3])):
                best = key[2] == winner and key[1] == SEARCH
                found.append(_row(goal, index, key, settings[key[2]], plan, done[key], best, noise))
    return found


def _row(
    goal: Goal, index: int, key: Key, parameters: Parameters, plan: SizePlan, outcome: Outcome, best: bool, noise: Sequence[str]
) -> Row:
    size, phase, trial, seed = key
    status, steps, best_value = outcome.goals[index]
    return {
        "goal": goal.name,
        "global_size": size,
        "seed": seed,
        "trial": trial,
        "phase": phase,
        "learning_rate": parameters.get("learning_rate"),
        **{f"param_{name}": value for name, value in sorted(parameters.items()) if name != "learning_rate"},
        "status": status,
        "steps": steps,
        "examples": None if steps is None else steps * size,
        "best_value": best_value,
        "mode": goal.mode,
        "boundary": on_boundary(plan.space, parameters),
        "best": best,
        "pruned": outcome.pruned,
        "refined": phase == SEARCH and trial >= plan.trials,
        "budget_steps": plan.budget_steps,
        **{name: outcome.noise.get(name) for name in noise},
    }
