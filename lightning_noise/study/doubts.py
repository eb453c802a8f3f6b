"""Steps at every batch size from the reruns of a goal, and the reasons to distrust them."""

from collections.abc import Mapping, Sequence

from lightning_noise.report.costs import cost, cost_at
from lightning_noise.report.runs import Run, by_size, count_reached, reruns_of, steps_by_size
from lightning_noise.report.terms import INCOMPLETE
from lightning_noise.say.words import count, number
from lightning_noise.study import caveats


def measured(runs: Sequence[Run]) -> dict[float, float]:
    """Batch size → steps of the reruns of one goal."""
    return steps_by_size(reruns_of(runs))


def doubts(runs: Sequence[Run]) -> list[str]:
    """What is wrong with the runs of one goal, what to do about it, and what that costs."""
    rerun = by_size(reruns_of(runs))
    reruns = {}
    found = []
    for size, here in by_size(runs).items():
        reruns[size] = rerun.get(size, [])
        found += _of_size(size, here, reruns[size])
    found += _at_budget(runs, reruns)
    found += _on_boundary(runs)
    return found


def _of_size(size: float, runs: Sequence[Run], reruns: Sequence[Run]) -> list[str]:
    if not reruns:
        return [caveats.NOT_REACHED.say(cost(runs), size=size)]
    reached = count_reached(reruns)
    values = {
        "size": size,
        "reached": reached,
        "reruns": f"{count(len(reruns), 'rerun')} of the winner",
    }
    if 2 * reached <= len(reruns):
        rate, fix = _unsafe(reruns[0])
        return [caveats.LEFT_OUT.say(cost(runs), rate=rate, fix=fix, **values)]
    if reached < len(reruns):
        return [caveats.MEDIAN.say(cost(reruns), **values)]
    return []


def _unsafe(run: Run) -> tuple[str, str]:
    """Where a winner ran, and what to search instead.

    The quickest of many trials is often a lucky one near the edge of stability.
    """
    if run.learning_rate is None:
        return "", "search another range"
    rate = number(run.learning_rate)
    where = f" at too high a learning rate ({rate})"
    return where, "lower the upper end of the range below it"


def _at_budget(runs: Sequence[Run], reruns: Mapping[float, Sequence[Run]]) -> list[str]:
    """Reruns that were cut off: the steps that they would have taken are missing from the fit."""
    found = []
    for size, here in reruns.items():
        late = [run for run in here if _used_up_budget(run)]
        if not late:
            continue
        text = f"{len(late)} of {len(here)} at global size {size}"
        steps = late[0].budget_steps
        if steps is not None:
            text += f" (budget: {count(steps, 'step')})"
        found.append(text)
    if not found:
        return []
    return [caveats.AT_BUDGET.say(cost(runs), where=", ".join(found))]


def _used_up_budget(run: Run) -> bool:
    return run.status == INCOMPLETE and not run.pruned


def _on_boundary(runs: Sequence[Run]) -> list[str]:
    sizes = [run.global_size for run in runs if run.best and run.boundary]
    if not sizes:
        return []
    listed = ", ".join(map(str, sizes))
    return [caveats.BOUNDARY.say(cost_at(runs, sizes), sizes=listed)]
