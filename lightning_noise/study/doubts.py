"""Steps at every batch size from the reruns of a goal, and the reasons to distrust them."""

from collections.abc import Mapping, Sequence

from lightning_noise.report.runs import Run, by_size, count_reached, reruns_of, steps_by_size
from lightning_noise.report.terms import INCOMPLETE
from lightning_noise.say.words import count, number


def measured(runs: Sequence[Run]) -> dict[float, float]:
    """Batch size → steps of the reruns of one goal."""
    return steps_by_size(reruns_of(runs))


def doubts(runs: Sequence[Run]) -> list[str]:
    """What is wrong with the runs of one goal, and what to do about it."""
    rerun = by_size(reruns_of(runs))
    reruns = {}
    found = []
    for size in by_size(runs):
        reruns[size] = rerun.get(size, [])
        found += _of_size(size, reruns[size])
    found += _at_budget(reruns)
    found += _on_boundary(runs)
    return found


def _of_size(size: float, reruns: Sequence[Run]) -> list[str]:
    if not reruns:
        fix = "raise the budget or `trials`, or search another range"
        return [f"no trial reached it at global size {size}: {fix}"]
    reached = count_reached(reruns)
    all_of_them = f"{count(len(reruns), 'rerun')} of the winner"
    text = f"at global size {size}, {reached} of {all_of_them} reached it"
    if 2 * reached <= len(reruns):
        return [f"{text}, so the size is left out. {_unsafe(reruns[0])}"]
    if reached < len(reruns):
        return [f"{text}, so its steps are the median over all of them"]
    return []


def _unsafe(run: Run) -> str:
    """The quickest of many trials is often a lucky one near the edge of stability."""
    if run.learning_rate is None:
        fix = "search another range, or raise the budget"
        return f"Its winner may have been a lucky run: {fix}"
    rate = number(run.learning_rate)
    return (
        f"Its winner may have been a lucky run at too high a learning rate ({rate}): lower the "
        "upper end of the range below it, or raise the budget"
    )


def _at_budget(reruns: Mapping[float, Sequence[Run]]) -> list[str]:
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
    return [
        "reruns ended at the budget before they reached it, which biases the fit: "
        f"{', '.join(found)}. Raise Budget(steps=..., examples=...) and run under another name"
    ]


def _used_up_budget(run: Run) -> bool:
    return run.status == INCOMPLETE and not run.pruned


def _on_boundary(runs: Sequence[Run]) -> list[str]:
    sizes = [str(run.global_size) for run in runs if run.best and run.boundary]
    if not sizes:
        return []
    where = f"at global size {', '.join(sizes)}"
    return [f"the winner lies on the boundary of the search space {where}: widen the ranges"]
