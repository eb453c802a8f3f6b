"""Draws the figure of the derivation in docs/adaptive.md.

python -m benchmarks.gain.derivation_figure docs/images/least_time.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from lightning_noise.adapt.step_times import Line
from lightning_noise.core.tradeoff import exchange_rate_size, time_cost

NOISE_SCALE = 400.0
LINE = Line(64.0, 1.0)


def draw(path: Path) -> None:
    """The cost on the left, the two shares on the right, for t = 64 + B and R = 400."""
    sizes = [2 ** (k / 8) for k in range(24, 97)]
    doubled = [16 * 2**k for k in range(7)]
    best = exchange_rate_size(LINE.fixed / LINE.per_example, NOISE_SCALE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(sizes, [_cost(size) for size in sizes])
    left.plot(doubled, [_cost(size) for size in doubled], "o", label="start · 2^k, from 16")
    left.axvline(best, color="grey", linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="t(B)(1 + R/B)")
    left.legend()
    right.plot(sizes, [LINE.per_example * size / LINE.at(size) for size in sizes], label="η")
    right.plot(sizes, [NOISE_SCALE / (NOISE_SCALE + size) for size in sizes], label="R/(R + B)")
    right.axvline(best, color="grey", linestyle=":", label=f"least time, B = {best:.0f}")
    right.set(xscale="log", xlabel="batch size B", ylabel="share", ylim=(0, 1))
    right.legend()
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    figure.suptitle("t = 64 + B, R = 400")
    figure.savefig(path, dpi=110)


def _cost(size: float) -> float:
    return time_cost(LINE.at(size), NOISE_SCALE, size)


def main() -> None:
    """Draws to the path given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    draw(parser.parse_args().path)


if __name__ == "__main__":
    main()
