"""Does the 95 % interval of B_crit hold the truth in 95 % of studies? Simulated steps to a goal,
the package's own fit.

Each simulated study draws S = 1000 (1 + 1000/B) at its batch sizes, times a log-normal error of
every seed and one that all seeds of a batch size share (the search found a rate that is not quite
the best), and fits ``CriticalBatchSize``. The columns:

- refused: share of studies that the fit refuses for want of a bend. They are left out of all that
  follows.
- coverage: share whose interval holds 1000; an end that is ``None`` is no bound. s.e.: its binomial
  standard error.
- below, above: share whose interval lies wholly below, or above, the truth.
- bounded: share whose interval has both ends.
- b_crit 5 %, 50 %, 95 %: quantiles of the estimate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.harness.spec import Benchmark, Done, Simulated
from benchmarks.harness.tables import markdown, number_cell, percent
from lightning_noise import CriticalBatchSize

TRUTH = 1000.0
S_MIN = 1000.0


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One kind of study.

    Args:
        name: what is special about it.
        exponents: the batch sizes are 2 to these powers; b_crit lies at 9.97.
        seeds: runs at each size.
        seed_error: standard deviation of ln S between the seeds of one size.
        size_error: the same of what all seeds of a size share.
    """

    name: str
    exponents: tuple[int, ...]
    seeds: int = 1
    seed_error: float = 0.05
    size_error: float = 0.0

    @property
    def sizes(self) -> list[float]:
        """The batch sizes."""
        return [2.0**k for k in self.exponents]


WIDE = tuple(range(3, 17))
REGIMES = (
    Regime(name="14 sizes, 5 %", exponents=WIDE),
    Regime(name="14 sizes, 20 %", exponents=WIDE, seed_error=0.2),
    Regime(name="14 sizes, 3 seeds, sizes off too", exponents=WIDE, seeds=3, size_error=0.05),
    Regime(name="8 sizes, 5 %", exponents=tuple(range(6, 14))),
    Regime(name="8 sizes, 20 %", exponents=tuple(range(6, 14)), seed_error=0.2),
    Regime(
        name="6 sizes, 3 seeds, sizes off too",
        exponents=(4, 6, 8, 10, 12, 14),
        seeds=3,
        size_error=0.1,
    ),
    Regime(name="5 sizes, 5 %", exponents=(6, 8, 10, 12, 14)),
    Regime(name="4 sizes, 5 %", exponents=(6, 9, 11, 14)),
    Regime(name="4 sizes, 20 %", exponents=(6, 9, 11, 14), seed_error=0.2),
    Regime(name="small sizes only, 5 %", exponents=tuple(range(3, 11))),
    Regime(name="large sizes only, 5 %", exponents=tuple(range(9, 17))),
    Regime(name="large sizes only, 20 %", exponents=tuple(range(9, 17)), seed_error=0.2),
)


class Row(NamedTuple):
    """One line of the table; shares lie in [0, 1]."""

    regime: str
    sizes: int
    seeds: int
    runs: int
    refused: float
    coverage: float
    standard_error: float
    below: float
    above: float
    bounded: float
    b_crit_05: float
    b_crit_50: float
    b_crit_95: float


def fits(regime: Regime, runs: int, rng: np.random.Generator) -> list[CriticalBatchSize]:
    """The fits of ``runs`` simulated studies, without those refused."""
    sizes = np.repeat(regime.sizes, regime.seeds)
    curve = np.log(S_MIN * (1 + TRUTH / sizes))
    found = []
    for _ in range(runs):
        shared = np.repeat(rng.standard_normal(len(regime.sizes)), regime.seeds)
        logs = (
            curve + regime.size_error * shared + regime.seed_error * rng.standard_normal(len(sizes))
        )
        try:
            found.append(CriticalBatchSize.fit(sizes.tolist(), np.exp(logs).tolist()))
        except ValueError as refusal:
            if "bend" not in str(refusal):
                raise
    return found


def evaluate(regime: Regime, runs: int, rng: np.random.Generator) -> Row:
    """Simulates ``runs`` studies of one kind and counts."""
    found = fits(regime, runs, rng)
    n = len(found) or float("nan")  # without any fit a share of them is not a number
    below = sum(fit.high is not None and fit.high < TRUTH for fit in found) / n
    above = sum(fit.low is not None and fit.low > TRUTH for fit in found) / n
    coverage = 1 - below - above
    bounded = sum(fit.low is not None and fit.high is not None for fit in found) / n
    quantiles = np.quantile([fit.b_crit for fit in found] or [np.nan], [0.05, 0.5, 0.95]).tolist()
    error = (coverage * (1 - coverage) / n) ** 0.5
    head = (regime.name, len(regime.exponents), regime.seeds, runs, 1 - len(found) / runs)
    return Row(*head, coverage, error, below, above, bounded, *quantiles)


def measure(options: Simulated, done: Done) -> Iterator[list[Row]]:
    """Every kind of study, drawn from a seed of its own."""
    for index, regime in enumerate(REGIMES):
        if (regime.name,) not in done:
            rng = np.random.default_rng([options.seed, index])
            yield [evaluate(regime, options.runs, rng)]


def table(rows: Sequence[Row]) -> str:
    """Shares in percent."""
    lines = []
    for r in rows:
        shares = (r.refused, r.coverage, r.standard_error, r.below, r.above, r.bounded)
        quantiles = [number_cell(value, ".0f") for value in (r.b_crit_05, r.b_crit_50, r.b_crit_95)]
        lines.append((r.regime, *map(percent, shares), *quantiles))
    shares = ("refused %", "coverage %", "s.e.", "below %", "above %", "bounded %")
    return markdown(("regime", *shares, "b_crit 5 %", "50 %", "95 %"), lines)


BENCHMARK = Benchmark(
    name="critical_fit",
    question="Does the 95 % interval of B_crit hold the truth in 95 % of studies?",
    about=__doc__,
    row=Row,
    key=("regime",),
    measure=measure,
    options=Simulated(),
    quick=Simulated(runs=5),
    tables={"critical fit": table},
    minutes=2,
)
