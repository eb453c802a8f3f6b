"""Steps to a goal of variants: critical batch sizes, their ratios, a table and a figure."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.atlas import findings_rules
from benchmarks.atlas.findings_statistics import NOTHING, Bounded, cell, jackknife
from benchmarks.atlas.report import number
from benchmarks.atlas.variant_runs import Row, Variants
from benchmarks.harness.tables import MISSING, markdown, number_cell
from lightning_noise import CriticalBatchSize
from lightning_noise.core.critical_advice import NoFitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = (10, 20, 50, 100, 200)  # of the steps in the figure
# As the kinds of optimizers are called in ``findings_rules``.
KINDS = {"plain": findings_rules.OTHERS, "sgd": "SGD with momentum", "adam": "Adam"}


def steps_of(rows: Sequence[Row]) -> tuple[float, float]:
    """(best rate, steps) of the rows of one batch size. Even seeds choose, odd seeds report the
    geometric mean; NaN where one of them did not reach the goal.
    """
    even: dict[float, list[float]] = {}
    odd: dict[float, list[float]] = {}
    for row in rows:
        side = odd if row.seed % 2 else even
        side.setdefault(row.learning_rate, []).append(row.steps)
    chosen = {rate: mean_log(steps) for rate, steps in sorted(even.items())}
    finite = {rate: value for rate, value in chosen.items() if math.isfinite(value)}
    if not finite:
        return math.nan, math.nan
    best = min(finite, key=finite.__getitem__)
    return best, math.exp(mean_log(odd.get(best, [])))


def mean_log(values: Sequence[float]) -> float:
    """Mean of the logarithms; NaN where one is."""
    if not values:
        return math.nan
    return math.fsum(math.log(value) for value in values) / len(values)


def curves(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Steps by batch size, of each variant; sizes that did not reach the goal are absent."""
    found: dict[str, dict[int, float]] = {}
    for name, sizes in by_size(rows).items():
        steps = found.setdefault(name, {})
        for size, mine in sorted(sizes.items()):
            value = steps_of(mine)[1]
            if math.isfinite(value):
                steps[size] = value
    return found


def by_size(rows: Sequence[Row]) -> dict[str, dict[int, list[Row]]]:
    """The rows of each variant and batch size."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.variant, {}).setdefault(row.global_size, []).append(row)
    return found


def fit_of(steps: Mapping[int, float]) -> CriticalBatchSize | None:
    """The hyperbola; ``None`` where the steps do not have one."""
    try:
        return CriticalBatchSize.fit(list(steps), list(steps.values()))
    except NoFitError:
        return None


def log_b_crit(rows: Sequence[Row], pairs: Collection[int]) -> float:
    """ln B_crit of a variant from pairs of seeds, 2n and 2n + 1; NaN where there is no fit."""
    kept = [row for row in rows if row.seed // 2 in pairs]
    for steps in curves(kept).values():
        fit = fit_of(steps)
        if fit is not None:
            return math.log(fit.b_crit)
    return math.nan


def ratios(rows: Sequence[Row], variants: Variants) -> dict[str, Bounded]:
    """B_crit of each variant over that of the one it is compared with.

    Both are from the same seeds, and the interval is a jackknife over pairs of them. NaN where one
    of the two has no B_crit.
    """
    listed: dict[str, list[Row]] = {}
    for row in rows:
        listed.setdefault(row.variant, []).append(row)

    @cache
    def log_of(name: str, pairs: tuple[int, ...]) -> float:
        return log_b_crit(listed.get(name, []), pairs)

    found = {}
    for name, mine in listed.items():
        than = variants[name].than
        if than:
            ratio = partial(log_ratio, log_of, name, than)
            found[name] = jackknife(ratio, {row.seed // 2 for row in mine}).exp()
    return found


def log_ratio(
    log_of: Callable[[str, tuple[int, ...]], float], name: str, than: str, pairs: Collection[int]
) -> float:
    """ln of the B_crit of a variant over that of another one."""
    kept = tuple(pairs)
    return log_of(name, kept) - log_of(than, kept)


def table(rows: Sequence[Row], variants: Variants) -> str:
    """B_crit, also relative to another variant's, minimum steps and examples of each variant."""
    lines = []
    relative = ratios(rows, variants)
    for name, steps in curves(rows).items():
        fit = fit_of(steps)
        sizes = f"{min(steps)}–{max(steps)} ({len(steps)})" if steps else MISSING
        if fit is None:
            lines.append((name, sizes, *5 * (MISSING,)))
            continue
        low, high = number_cell(fit.low), number_cell(fit.high)
        lines.append(
            (
                name,
                sizes,
                f"{fit.b_crit:.3g} [{low}, {high}]",
                ratio_cell(relative.get(name, NOTHING), variants[name].than),
                number(fit.s_min),
                number(fit.e_min),
                f"{fit.residual:.2f}",
            )
        )
    head = (
        "variant",
        "batch sizes",
        "B_crit",
        "relative B_crit",
        "minimum steps",
        "minimum examples",
        "residual in ln S",
    )
    return markdown(head, lines)


def ratio_cell(ratio: Bounded, than: str) -> str:
    """A ratio and what it is relative to."""
    if math.isnan(ratio.value):
        return MISSING
    return f"{cell(ratio)} × {than}"


def tuned(rows: Sequence[Row], variants: Variants) -> list[findings_rules.Row]:
    """The chosen rates of the variants that have a B_crit."""
    found = []
    grouped = by_size(rows)
    for name, steps in curves(rows).items():
        fit = fit_of(steps)
        if fit is None:
            continue
        for size in steps:
            rate = steps_of(grouped[name][size])[0]
            kind = KINDS[variants[name].optimizer]
            found.append(findings_rules.Row(name, kind, size, rate, fit.b_crit))
    return found


def rate_table(rows: Sequence[Row], variants: Variants) -> str:
    """Exponents of the chosen rates below and above B_crit, all variants together."""
    return findings_rules.exponent_table(tuned(rows, variants))


def draw(rows: Sequence[Row], path: Path, panels: Sequence[Sequence[str]], *, wrong: float) -> None:
    """Steps to the goal against batch size, with the fits; a panel for each tuple of variants."""
    from matplotlib.figure import Figure

    found = curves(rows)
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for ax, names in zip(axes, panels, strict=True):
        for position, name in enumerate(names):
            if found.get(name):
                draw_curve(ax, name, found[name], f"C{position}")
        ax.set(xscale="log", yscale="log", xlabel="batch size B, examples")
        ax.set_yticks(TICKS, [str(tick) for tick in TICKS])
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend(fontsize=8)
    axes[0].set_ylabel(f"steps to {100 * wrong:.0f} % wrong")
    figure.savefig(path)


def draw_curve(ax: "Axes", name: str, steps: Mapping[int, float], color: str) -> None:
    """The steps of a variant, and their hyperbola."""
    ax.plot(list(steps), list(steps.values()), "o", color=color, markersize=4, label=name)
    fit = fit_of(steps)
    if fit is not None:
        grid = np.geomspace(min(steps), max(steps), 60)
        ax.plot(grid, [fit.steps(size) for size in grid], color=color, linewidth=1)
