"""What a fit found, as text. Everything that reports a fit uses these lines."""

from lightning_noise.core.critical import CriticalBatchSize
from lightning_noise.report.curves import Curve
from lightning_noise.say.words import count, interval, number

NO_FIT = "b_crit could not be determined"


def fit_lines(fit: CriticalBatchSize, *, confidence: float = 0.95) -> list[str]:
    """The fit, and the two other batch sizes that go by similar names."""
    b_crit = number(fit.b_crit)
    bounds = f"{100 * confidence:g} % interval {interval(fit.low, fit.high)}"
    s_min = count(fit.s_min, "step")
    e_min = count(fit.e_min, "example")
    residual = f"{100 * fit.residual:.1f} %"
    end = number(fit.end_of_perfect_scaling())
    overhead = number(fit.overhead_size(0.2))
    return [
        f"b_crit {b_crit} examples, {bounds}: twice the minimum steps and examples",
        f"minimum {s_min}, {e_min}; residual {residual} (rms of ln S)",
        f"end of perfect scaling: {end}, where a doubling halves the steps to within 5 %",
        f"20 % overhead: {overhead}, where steps are 1.2 times those of perfect scaling",
    ]


def describe(curve: Curve) -> str:
    """The lines of one goal: its runs, the fit, and every warning."""
    sizes = {point.global_size for point in curve.points}
    runs = count(len(curve.points), "run")
    lines = [f"{curve.goal}: {runs} at {count(len(sizes), 'batch size')} reached it"]
    for size, missed in curve.missed.items():
        tried = f"{missed.failed} of {count(missed.runs, 'run')}"
        lines.append(f"  warning: at batch size {size:g}, {tried} did not reach it")
    if curve.fit is None:
        lines.append(f"  {NO_FIT}: {curve.refusal}")
        return "\n".join(lines)
    for line in fit_lines(curve.fit, confidence=curve.confidence):
        lines.append(f"  {line}")
    for text in curve.warnings:
        lines.append(f"  warning: {text}")
    return "\n".join(lines)
