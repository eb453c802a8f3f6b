"""The Pareto fronts of many goals on one metric, as plain numbers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_noise.report.curves import Curve
from lightning_noise.report.table import Row

LEAST_GOALS = 4  # fewer are easier to compare side by side


class Front(NamedTuple):
    """Steps and examples to one goal, and the fitted hyperbola.

    Attributes:
        goal: its name.
        target: value of the metric that it asks for.
        points: (steps, examples) at each batch size.
        steps, examples: the hyperbola; empty without a fit.
        at_b_crit: (steps, examples) there, twice the least of both; None without a fit.
    """

    goal: str
    target: float
    points: tuple[tuple[float, float], ...]
    steps: tuple[float, ...]
    examples: tuple[float, ...]
    at_b_crit: tuple[float, float] | None


class Fronts(NamedTuple):
    """The fronts of a metric, in the order of their targets.

    Source: McCandlish et al. 2018, the Pareto fronts of its experiments.
    """

    metric: str
    fronts: tuple[Front, ...]


def fronts(rows: Iterable[Row], curves: Sequence[Curve]) -> Fronts | None:
    """The fronts of the goals of ``curves``; ``rows`` is their table.

    None where there are fewer than four goals, or where the goals are not different values of one
    metric: a value would then stand for several fronts.
    """
    metrics: dict[str, str | None] = {}
    targets: dict[str, float] = {}
    drawn = {curve.goal for curve in curves}
    for row in rows:
        if row["goal"] in drawn and row.get("target") is not None:
            metrics[row["goal"]] = row.get("metric")
            targets[row["goal"]] = row["target"]
    metric = next(iter(metrics.values()), None)
    if metric is None or set(metrics.values()) != {metric}:
        return None
    if len(set(targets.values())) < max(len(drawn), LEAST_GOALS):
        return None
    made = [_front(curve, targets[curve.goal]) for curve in curves]
    return Fronts(metric, tuple(sorted(made, key=_target)))


def _front(curve: Curve, target: float) -> Front:
    points = []
    for mean in curve.means:
        points.append((mean.steps, mean.steps * mean.global_size))
    examples = []
    for size, steps in zip(curve.sizes, curve.steps, strict=True):
        examples.append(size * steps)
    at_b_crit = None
    if curve.fit is not None:
        at_b_crit = (2 * curve.fit.s_min, 2 * curve.fit.e_min)
    return Front(
        goal=curve.goal,
        target=target,
        points=tuple(points),
        steps=curve.steps,
        examples=tuple(examples),
        at_b_crit=at_b_crit,
    )


def _target(front: Front) -> float:
    return front.target
