"""Steps at every batch size from the reruns of a goal, and what speaks against them."""

from collections.abc import Sequence
from typing import Any

from lightning_noise.report.curves import steps_by_size
from lightning_noise.report.fit_text import count
from lightning_noise.say.verdict import number
from lightning_noise.study.rows import Row
from lightning_noise.study.trial import RERUN


def measured(rows: Sequence[Row]) -> dict[float, float]:
    """Size → steps of the reruns of one goal."""
    return steps_by_size(row for found in _reruns(rows).values() for row in found)


def doubts(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the runs of one goal, and what to do about it."""
    reruns = _reruns(rows)
    found = [text for size, runs in reruns.items() for text in _of_size(size, runs)]
    return [*found, *_at_budget(reruns), *_on_boundary(rows)]


def _reruns(rows: Sequence[Row]) -> dict[float, list[Row]]:
    runs: dict[float, list[Row]] = {row["global_size"]: [] for row in rows}
    for row in rows:
        if row["phase"] == RERUN:
            runs[row["global_size"]].append(row)
    return runs


def _of_size(size: float, runs: Sequence[Row]) -> list[str]:
    reached = sum(row["status"] == "reached" for row in runs)
    tried = f"{reached} of {count(len(runs), 'rerun')} of the winner"
    told = f"at global size {size}, {tried} reached it"
    if not runs:
        fix = "raise the budget or `trials`, or search another range"
        return [f"no trial reached it at global size {size}: {fix}"]
    if 2 * reached <= len(runs):
        return [f"{told}, so the size is left out. {_unsafe(runs[0])}"]
    if reached < len(runs):
        return [f"{told}, so its steps are the median over all of them"]
    return []


def _unsafe(run: Row) -> str:
    """The quickest of many trials is often a lucky one near the edge of stability."""
    rate: Any = run.get("learning_rate")
    if rate is None:
        return "Its winner may have been a lucky run: search another range, or raise the budget"
    return (
        f"Its winner may have been a lucky run at too high a learning rate ({number(rate)}): lower "
        "the upper end of the range below it, or raise the budget"
    )


def _at_budget(reruns: dict[float, list[Row]]) -> list[str]:
    """Reruns that were cut off: the steps that they would have taken are missing from the fit."""
    found = []
    for size, runs in reruns.items():
        late = [row for row in runs if row["status"] == "incomplete" and not row.get("pruned")]
        if late:
            steps = late[0].get("budget_steps")
            budget = "" if steps is None else f" (budget: {count(steps, 'step')})"
            found.append(f"{len(late)} of {len(runs)} at global size {size}{budget}")
    if not found:
        return []
    return [
        f"reruns ended at the budget before they reached it, which biases the fit: "
        f"{', '.join(found)}. Raise Budget(steps=..., examples=...) and run under another name"
    ]


def _on_boundary(rows: Sequence[Row]) -> list[str]:
    sizes = [row["global_size"] for row in rows if row["best"] and row["boundary"]]
    if not sizes:
        return []
    where = f"at global size {', '.join(map(str, sizes))}"
    return [f"the winner lies on the boundary of the search space {where}: widen the ranges"]
