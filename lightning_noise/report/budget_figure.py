"""The figure of a fixed budget, from the plain numbers of ``budget``. Needs matplotlib."""

from typing import TYPE_CHECKING, Any

from lightning_noise.report.axes import size_axis, two_panels
from lightning_noise.report.budget import FixedBudget
from lightning_noise.say.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE: dict[str, Any] = {
    "color": "black",
    "marker": "o",
    "markerfacecolor": "white",
    "linewidth": 1,
}
BETTER = {"min": "lower", "max": "higher"}


def draw_fixed_budget(found: FixedBudget) -> "Figure":
    """The best value of any search trial, and the share of the trials that reached the goal."""
    figure, upper, lower = two_panels(1, 1)
    upper.plot(list(found.best), list(found.best.values()), **LINE)
    metric = found.metric or "metric of the goal"
    upper.set_ylabel(f"best {metric} ({BETTER[found.mode]} is better)")
    if found.target is not None:
        upper.axhline(
            found.target,
            color="0.35",
            linestyle="--",
            label=f"goal: {number(found.target)}",
        )
        upper.legend(frameon=False)
    _draw_shares(lower, found)
    for axes in (upper, lower):
        limits = [*found.best, *found.shares]
        size_axis(axes, limits)
        axes.set_xlim(min(limits) / 2**0.5, max(limits) * 2**0.5)
    upper.set_xlabel("")
    upper.set_title(f"{found.goal}: what the search trials give for their full budget")
    return figure


def _draw_shares(axes: "Axes", found: FixedBudget) -> None:
    shares = [100 * share for share in found.shares.values()]
    axes.plot(list(found.shares), shares, **LINE)
    axes.set_ylim(-4, 108)
    axes.set_ylabel("trials that reach the goal, %")
    fewest = min(found.trials.values())
    most = max(found.trials.values())
    trials = f"{fewest}"
    if most > fewest:
        trials = f"{fewest} to {most}"
    axes.text(
        0.99,
        0.97,
        f"of {trials} trials per batch size",
        transform=axes.transAxes,
        ha="right",
        va="top",
    )
