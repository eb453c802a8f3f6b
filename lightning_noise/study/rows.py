"""The tidy table of a study: one row per run and goal, plain values only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_noise.report.terms import PHASES
from lightning_noise.study.goal import Goal
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.replay import replay
from lightning_noise.study.space import as_given, on_boundary
from lightning_noise.study.state import State
from lightning_noise.study.task import SEARCH, Done, Outcome, RunKey

RATE = "learning_rate"


def rows_of(
    plans: Sequence[SizePlan],
    goals: Sequence[Goal],
    done: Done,
    further: Mapping[Goal, Goal] | None = None,
) -> list[dict[str, Any]]:
    """All rows, by goal, size, phase, trial and seed: the order in which runs ended does not show.

    A repeat has a row only for the goals that it was still in the better half of, a rerun only for
    those whose winner it is.

    Args:
        plans: of all batch sizes.
        goals: of the study.
        done: all runs.
        further: goal → the goal of the study from whose runs it is read.
    """
    states = {plan.global_size: plan.state(done) for plan in plans}
    measured: set[str] = set()
    for state in states.values():
        for outcome in state.outcomes.values():
            measured.update(outcome.noise)
    noise = sorted(measured)
    sources = {goal: goal for goal in goals} | dict(further or {})
    found: list[dict[str, Any]] = []
    for goal, source in sources.items():
        for plan in plans:
            found += _of_size(goal, source, plan, states[plan.global_size], done, noise)
    return found


def _of_size(
    goal: Goal,
    source: Goal,
    plan: SizePlan,
    state: State,
    done: Done,
    noise: Sequence[str],
) -> Iterable[dict[str, Any]]:
    winner = state.winners.get(source)
    added = {trial for strip in state.strips for trial in state.of_strip(strip, plan.search.trials)}
    for key in sorted(state.outcomes, key=_order):
        outcome = state.outcomes[key]
        if source not in outcome.goals:
            continue
        found = outcome.goals[source]
        if goal != source:
            found = _read(goal, key, outcome, plan, done).goals[goal]
        parameters = as_given(state.points[key.trial])
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
            "boundary": on_boundary(state.space, state.points[key.trial]),
            "best": key.trial == winner and key.phase == SEARCH,
            "pruned": outcome.pruned,
            "widened": key.trial in added,
            "budget_steps": plan.budget_steps,
            "trained_steps": outcome.trained,
            **measured,
        }


def _read(goal: Goal, key: RunKey, outcome: Outcome, plan: SizePlan, done: Done) -> Outcome:
    """What a run gives for a further goal, up to where it ended for the goals of the study."""
    for record in done[key]:
        found = replay(
            record,
            [goal],
            global_size=key.global_size,
            max_steps=outcome.trained,
            budget_steps=plan.budget_steps,
            early_stop=False,
        )
        if found is not None:
            return found
    raise AssertionError(f"{key} has no reading of {goal.metric!r}")


def _order(key: RunKey) -> tuple[int, int, int]:
    return PHASES.index(key.phase), key.trial, key.seed
