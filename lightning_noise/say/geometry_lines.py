"""Noise scales in other metrics than the Euclidean one, in words."""

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import LEAST_N_EFF, NoiseEstimate
from lightning_noise.say.log_keys import name_of
from lightning_noise.say.values import at_end, with_interval


def optimizer_line(estimate: NoiseEstimate) -> str:
    """The line about the noise scale in the optimizer's metric."""
    return f"in the metric of the optimizer: b_optimizer {at_end(estimate)}"


def curvature_line(geometry: str, average: CurvatureAverage) -> str:
    """The line about a noise scale in a metric of curvature, or why there is none."""
    estimate = average.estimate()
    name = name_of(geometry)
    seen = f"{average.probes} probes"
    if average.indefinite:
        seen += f", {100 * average.indefinite:.0f} % of them met a curvature <= 0"
    if average.average.n_eff >= LEAST_N_EFF and estimate.low is None:
        parts = f"GᵀHG {estimate.signal:.3g}, tr(HΣ) {estimate.noise:.3g}"
        return f"{geometry}: {name} is not defined or not resolved here ({parts}; {seen})"
    values = [at_end(estimate)]
    eps_max = average.eps_max()
    if eps_max is not None:
        values.append(f"eps_max {with_interval(*eps_max)}")
    dl_max = average.dl_max()
    if dl_max is not None:
        values.append(f"dl_max {with_interval(*dl_max)}")
    return f"{geometry}: {name} {', '.join(values)} ({seen})"
