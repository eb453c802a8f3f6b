"""Does the 95 % interval of B_simple hold the truth in 95 % of runs? Simulated gradients, the
package's own estimator.

Each regime draws the gradients of every group of every optimizer step, with |G|² = 1 and a
covariance that is spread evenly over ``directions`` directions, and hands the squared norms to
``RunningAverage`` and ``estimate_from``. The columns:

- measured: share of runs that have an interval at all. The others are left out of the two
  coverages: neither held nor missed.
- coverage: share of measured runs whose interval of B_simple holds the truth; an end that is
  ``None`` is no bound.
- s.e.: binomial standard error of the coverage.
- strict: the same, except that a run whose whole interval of |G|²/tr(Σ) lies below zero is a miss.
  Both ends of its B_simple are ``None``, so nothing false is said, but by the theory of the
  interval it is one of the 2.5 % on that side.
- low holds: share of measured runs whose lower end holds: by itself a one-sided bound of 97.5 %,
  resolved or not.
- resolved: share of all runs whose interval is bounded on both sides.

The last line is a regime that the method cannot cover, kept in sight: with log-normal scales of σ =
1 a rare example outweighs all others. A window without one reads tr(Σ) too low and sees no sign of
it: nearly all misses are intervals that lie too low.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.spec import Benchmark, Done, Simulated
from benchmarks.harness.tables import markdown, percent
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.estimate import estimate_from, ratio_interval
from lightning_noise.core.moments import Moments

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One setting: a true noise scale, the groups of every step, and the spread of the examples.

    Args:
        name: what is special about it.
        noise_scale: the truth, in examples.
        phases: (steps, sizes of the groups) one after the other; the groups of a step have equal
            weights, as under DDP.
        directions: number of directions that hold the covariance, evenly; d_eff = tr(Σ)²/tr(Σ²).
        log_scale: standard deviation of the logarithm of an example's scale; 0 for Gaussian
            examples.
        decay: of the running average; 1 for the plain weighted mean.
    """

    name: str
    noise_scale: float
    phases: tuple[tuple[int, tuple[int, ...]], ...]
    directions: int = 400
    log_scale: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.noise_scale <= 0 or self.directions < 1 or self.log_scale < 0:
            raise ValueError(f"need b_simple > 0, directions >= 1 and log_scale >= 0, got {self}.")

    @property
    def steps(self) -> int:
        """Optimizer steps in one run."""
        return sum(steps for steps, _ in self.phases)

    @property
    def groups(self) -> str:
        """The groups of a step, in words for the table."""
        return " → ".join(_in_words(sizes) for _, sizes in self.phases)


def _in_words(sizes: tuple[int, ...]) -> str:
    return f"{len(sizes)}×{sizes[0]}" if len(set(sizes)) == 1 else "+".join(map(str, sizes))


UNEVEN = (32, 32, 32, 4)
REGIMES = (
    *(Regime(name="well resolved", noise_scale=64, phases=((n, (64,) * 4),)) for n in (5, 20)),
    *(
        Regime(name="B_simple ≫ batch", noise_scale=1024, phases=((n, (8, 8)),))
        for n in (5, 20, 200)
    ),
    *(
        Regime(name="d_eff = 5", noise_scale=64, phases=((n, (64,) * 4),), directions=5)
        for n in (5, 20)
    ),
    *(
        Regime(
            name="d_eff = 5, B_simple ≫ batch",
            noise_scale=1024,
            phases=((n, (8, 8)),),
            directions=5,
        )
        for n in (5, 20)
    ),
    *(Regime(name="uneven groups", noise_scale=100, phases=((n, UNEVEN),)) for n in (5, 20)),
    Regime(name="batch 64 → 512", noise_scale=256, phases=((10, (32,) * 2), (10, (32,) * 16))),
    *(
        Regime(
            name=f"log-normal scales, σ = {s}",
            noise_scale=100,
            phases=((20, (16,) * 4),),
            log_scale=s,
        )
        for s in (0.5, 0.75)
    ),
    Regime(name="decay 0.9", noise_scale=100, phases=((100, (16,) * 4),), decay=0.9),
)
BEYOND = (
    Regime(
        name="beyond: log-normal, σ = 1", noise_scale=100, phases=((20, (16,) * 4),), log_scale=1.0
    ),
)


class Row(NamedTuple):
    """One line of the table; shares lie in [0, 1] and a coverage without any measured
    run is NaN.
    """

    regime: str
    b_simple: float
    groups: str
    steps: int
    runs: int
    measured: float
    coverage: float
    standard_error: float
    strict: float
    low_holds: float
    resolved: float


class Outcome(NamedTuple):
    """What one run's interval came to; summed field by field, how many runs did."""

    measured: int
    covered: int
    strict: int
    low_holds: int
    resolved: int


def simulate(
    regime: Regime, runs: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array, float, float]]:
    """The moments of every step for all runs at once: q_small (runs,), q_big (runs,), c_small,
    c_big.
    """
    for steps, sizes in regime.phases:
        weight = 1 / len(sizes)
        c_small = sum(weight / size for size in sizes)
        c_big = sum(weight**2 / size for size in sizes)
        for _ in range(steps):
            q_small, mean = np.zeros(runs), np.zeros((runs, regime.directions))
            for size in sizes:
                gradient = draw_group(regime, size, runs, rng)
                q_small += weight * np.einsum("ij,ij->i", gradient, gradient)
                mean += weight * gradient
            yield q_small, np.einsum("ij,ij->i", mean, mean), c_small, c_big


def draw_group(regime: Regime, size: int, runs: int, rng: np.random.Generator) -> Array:
    """Mean gradients of one group of ``size`` examples in each run, shape (runs, directions).

    Example j is G + s_j·u_j with Gaussian u_j and E s_j² = 1. Given the scales, the mean over the
    group is exactly Gaussian with Σ s_j²/size² times the covariance, so the examples themselves
    need not be drawn.
    """
    variance: Array | float = regime.noise_scale / regime.directions / size
    if regime.log_scale:
        logs = (
            2 * regime.log_scale * (rng.standard_normal((runs, size)) - regime.log_scale)
        )  # ln s², with E s² = 1
        variance = variance * np.exp(logs).mean(axis=1, keepdims=True)
    gradient = rng.standard_normal((runs, regime.directions))
    gradient *= np.sqrt(variance)
    gradient += (
        regime.directions**-0.5
    )  # G; any unit vector does, the covariance has no preferred direction
    return gradient


def judge(average: RunningAverage, truth: float) -> Outcome:
    """Compares one run's interval with the truth."""
    ratio = ratio_interval(average)
    if ratio is None:
        return Outcome(0, 0, 0, 0, 0)
    estimate = estimate_from(average)
    low_holds = estimate.low is None or truth >= estimate.low
    covered = low_holds and (estimate.high is None or truth <= estimate.high)
    return Outcome(1, covered, covered and ratio.high > 0, low_holds, estimate.resolved)


def evaluate(regime: Regime, runs: int, rng: np.random.Generator) -> Row:
    """Simulates ``runs`` runs of one regime and counts."""
    averages = [RunningAverage(regime.decay) for _ in range(runs)]
    for q_small, q_big, c_small, c_big in simulate(regime, runs, rng):
        for average, small, big in zip(averages, q_small.tolist(), q_big.tolist(), strict=True):
            average.update(Moments(small, big, c_small, c_big))
    count = Outcome(
        *map(sum, zip(*(judge(average, regime.noise_scale) for average in averages), strict=True))
    )
    # without any measured run a share of them is not a number
    measured = count.measured or float("nan")
    coverage = count.covered / measured
    return Row(
        regime=regime.name,
        b_simple=regime.noise_scale,
        groups=regime.groups,
        steps=regime.steps,
        runs=runs,
        measured=count.measured / runs,
        coverage=coverage,
        standard_error=(coverage * (1 - coverage) / measured) ** 0.5,
        strict=count.strict / measured,
        low_holds=count.low_holds / measured,
        resolved=count.resolved / runs,
    )


def measure(options: Simulated, done: Done) -> Iterator[list[Row]]:
    """Every regime, drawn from a seed of its own."""
    for index, regime in enumerate((*REGIMES, *BEYOND)):
        if (regime.name, regime.groups, regime.steps) not in done:
            rng = np.random.default_rng([options.seed, index])
            yield [evaluate(regime, options.runs, rng)]


def table(rows: Sequence[Row]) -> str:
    """Shares in percent."""
    shares = ("measured %", "coverage %", "s.e.", "strict %", "low holds %", "resolved %")
    lines = []
    for r in rows:
        values = (r.measured, r.coverage, r.standard_error, r.strict, r.low_holds, r.resolved)
        head = (r.regime, f"{r.b_simple:g}", r.groups, str(r.steps))
        lines.append((*head, *map(percent, values)))
    return markdown(("regime", "B_simple", "groups", "steps", *shares), lines)


BENCHMARK = Benchmark(
    name="coverage",
    question="Does the 95 % interval of B_simple hold the truth in 95 % of runs?",
    about=__doc__,
    row=Row,
    key=("regime", "groups", "steps"),
    measure=measure,
    options=Simulated(),
    quick=Simulated(runs=20),
    tables={"coverage": table},
    minutes=2,
)
