"""How many examples B_noise needs.

Gaussian gradients with a known Hessian, of which a share of the noise lies in few directions
(d_eff), as the large eigenvalues of real networks have it. A line gives the examples that 20 %
standard error of B_noise took, with probes of n examples, from the variance between probes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown
from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import moments_from_forms, relative_error

B_NOISE, PAIRS = 256.0, 4
DIRECTIONS = (5, 50)
SHARES = (1 / 16, 1 / 4, 1, 4)  # of B_noise, examples in a probe


class Row(NamedTuple):
    """Probes, and the examples in them, for a standard error of 20 %."""

    b_noise: float
    directions: int
    examples_a_probe: int
    contrasts: int
    probes: float
    examples: float


def need(
    b_noise: float, directions: int, size: int, pairs: int, draws: int, rng: np.random.Generator
) -> Row:
    """Probes for 20 % from ``pairs`` pairs of groups of gradients, H known: what the gradients
    alone cost.
    """
    groups, contrasts = 2 * pairs, (pairs + 1) // 2
    own = size / groups  # examples a group
    average = RunningAverage(1.0)
    for _ in range(draws):
        g = rng.standard_normal((groups, directions)) * np.sqrt(b_noise / directions / own)
        g[:, 0] += 1.0  # GᵀHG = 1, tr(HΣ) = b_noise, H = 1
        mean = g.mean(axis=0)
        u = g[0 : 4 * contrasts : 4] - g[1 : 4 * contrasts : 4]
        forms = (u * u).sum(axis=1).tolist()
        average.update(
            moments_from_forms(float(mean @ mean), 1 / size, forms, [2 / own] * len(forms))
        )
    error = relative_error(average)
    probes = draws * (error / 0.2) ** 2 if error is not None else float("nan")
    return Row(b_noise, directions, size, contrasts, probes, probes * size)


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All in one group, as the random numbers of one line follow those of the one before."""
    if done:
        return
    rng = np.random.default_rng(options.seed)
    yield [
        need(B_NOISE, directions, int(B_NOISE * share), PAIRS, options.draws, rng)
        for directions in DIRECTIONS
        for share in SHARES
    ]


def table(rows: Sequence[Row]) -> str:
    """A line for each number of directions."""
    lines = []
    for directions in dict.fromkeys(row.directions for row in rows):
        mine = [row for row in rows if row.directions == directions]
        cells = [f"{row.probes:.0f}, {row.examples:,.0f}" for row in mine]
        lines.append((f"d_eff = {directions}: probes, gradient examples", *cells))
    first = "n / B_noise, where n is the examples per probe"
    return markdown((first, "1/16", "1/4", "1", "4"), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    draws: int = option(20_000, "probes that the variance is taken from")
    seed: int = option(0, "of all random numbers")


BENCHMARK = Benchmark(
    name="curvature_precision",
    question="How many examples does B_noise need?",
    about=__doc__,
    row=Row,
    key=("b_noise", "directions", "examples_a_probe"),
    measure=measure,
    options=Options(),
    quick=Options(draws=50),
    tables={"curvature precision": table},
    minutes=1,
    digits=5,
)
