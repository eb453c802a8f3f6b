"""What a fit found, in words."""

import re
from collections.abc import Sequence

from lightning_noise.report.curves import Curve


def in_digits(value: float) -> str:
    """Three digits, or all of a whole number that is longer.

    >>> in_digits(31.416), in_digits(999.9), in_digits(119951.6)
    ('31.4', '1000', '119952')
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def count(value: float, one: str) -> str:
    """A number of things, rounded to a whole one, with its noun.

    >>> count(1, "step"), count(17.9, "step"), count(119951.6, "example"), count(0.3, "step")
    ('1 step', '18 steps', '119952 examples', 'less than 1 step')
    """
    whole = round(value)
    if whole == 0 < value:
        return f"less than 1 {one}"
    return f"{whole} {one}" if whole == 1 else f"{whole} {one}s"


def interval(low: float | None, high: float | None) -> str:
    """The interval of b_crit, with what is missing said.

    >>> interval(8, None), interval(None, 9), interval(8, 9.5), interval(None, None)
    ('at least 8', 'at most 9', '8 to 9.5', 'no bounds')
    """
    if low is not None and high is not None:
        return f"{in_digits(low)} to {in_digits(high)}"
    if low is not None:
        return f"at least {in_digits(low)}"
    return "no bounds" if high is None else f"at most {in_digits(high)}"


def describe(curve: Curve) -> str:
    """The lines of one goal: the fit, the two other batch sizes that go by similar names, and every warning."""
    sizes = len({point.global_size for point in curve.points})
    found = f"{count(len(curve.points), 'run')} at {count(sizes, 'batch size')}"
    lines = [f"{curve.goal}: {found} reached it"]
    for size, (missed, runs) in curve.missed.items():
        tried = count(runs, "run")
        lines.append(f"  warning: at batch size {size:g}, {missed} of {tried} did not reach it")
    if curve.fit is None:
        return "\n".join([*lines, f"  no fit: {curve.refusal}"])
    fit, percent = curve.fit, f"{100 * curve.confidence:g} %"
    bounds = f"{percent} interval {interval(fit.low, fit.high)}"
    least = f"at least {count(fit.s_min, 'step')}, at least {count(fit.e_min, 'example')}"
    lines += [
        f"  b_crit {in_digits(fit.b_crit)} examples, {bounds}: twice the least steps and the least examples",
        f"  {least}; residual {100 * fit.residual:.1f} % (rms of ln S)",
        f"  end of perfect scaling: {in_digits(fit.end_of_perfect_scaling())}, where a doubling halves the steps to within 5 %",
        f"  20 % overhead: {in_digits(fit.overhead_size(0.2))}, where steps are 1.2 times those of perfect scaling",
        *(f"  warning: {text}" for text in fit.warnings),
    ]
    return "\n".join(lines)


def file_names(goals: Sequence[str]) -> dict[str, str]:
    """Every goal's name as part of a file name; numbered where two would be alike.

    >>> file_names(["val/loss <= 0.3", "acc >= 0.9", "acc <= 0.9"])
    {'val/loss <= 0.3': 'val_loss_0.3', 'acc >= 0.9': 'acc_0.9', 'acc <= 0.9': 'acc_0.9_2'}
    """
    names: dict[str, str] = {}
    for goal in goals:
        stem = re.sub(r"[^\w.]+", "_", goal).strip("_.") or "goal"
        name, count = stem, 1
        while name in names.values():
            count += 1
            name = f"{stem}_{count}"
        names[goal] = name
    return names
