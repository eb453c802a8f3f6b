"""How far is a batch's gradient from the true one? E|G_est − G|²/|G|² = B_simple/B, checked
directly on a known gradient.

Linear regression at a fixed distance |δ| from its optimum, x ~ N(0, I_d), label noise of variance
s², loss (x·w − y)²/2. The true gradient is G = δ and B_simple = d + 1 + d·s²/|δ|², which is 41
here. Two things meet in the table:

- error: mean of |G_est − G|²/|G|² over independent batches of B examples, beside the exact
  B_simple/B;
- predicted: B_simple/B with its 95 % interval, where B_simple is what ``Monitor`` reads from
  micro-batches in ONE short run.

Only the first needs to know G. In the picture they should lie on one line of slope −1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from benchmarks.harness.spec import Benchmark, Done, Settings, option
from benchmarks.harness.tables import markdown
from lightning_noise import MicroBatches, Monitor

SIZES = tuple(2**k for k in range(13))  # 1 … 4096


@dataclass(frozen=True, kw_only=True)
class Regression:
    """The problem: ``d`` weights, each off its optimum by |δ|/√d."""

    d: int = 20
    label_variance: float = 1.0
    distance: float = 1.0

    def __post_init__(self) -> None:
        if self.d < 1 or self.label_variance < 0 or self.distance <= 0:
            raise ValueError(f"need d >= 1, label_variance >= 0 and distance > 0, got {self}.")

    @property
    def noise_scale(self) -> float:
        """tr(Σ)/|G|², exact, in examples."""
        return self.d + 1 + self.d * self.label_variance / self.distance**2

    @property
    def delta(self) -> Tensor:
        """Weights minus their optimum, shape (d,); also the true gradient, since E xxᵀ = I."""
        return torch.full((self.d,), self.distance / self.d**0.5, dtype=torch.float64)

    def draw(self, *shape: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Inputs (*shape, d) and targets (*shape); the optimal weights are zero, so a target is
        label noise alone.
        """
        x = torch.randn(*shape, self.d, dtype=torch.float64, generator=generator)
        return x, self.label_variance**0.5 * torch.randn(
            *shape, dtype=torch.float64, generator=generator
        )


class Prediction(NamedTuple):
    """B_simple as the package reads it, with its 95 % interval, in examples."""

    noise_scale: float
    low: float
    high: float


class Row(NamedTuple):
    """One batch size; all errors are relative to |G|²."""

    global_size: int
    batches: int
    error: float
    standard_error: float
    exact: float
    predicted: float
    predicted_low: float
    predicted_high: float


def squared_errors(
    problem: Regression, global_size: int, batches: int, generator: Generator
) -> Tensor:
    """|G_est − G|²/|G|² of independent batches, shape (batches,)."""
    delta, parts = problem.delta, list[Tensor]()
    for count in _chunks(batches, max(1, 2**17 // global_size)):
        # (count, d): a copy for each batch, so that one pass serves all
        weights = delta.repeat(count, 1).requires_grad_()
        x, y = problem.draw(count, global_size, generator=generator)
        residual = torch.einsum("nbd,nd->nb", x, weights) - y
        (gradient,) = torch.autograd.grad(residual.square().div(2).mean(dim=1).sum(), weights)
        parts.append((gradient - delta).square().sum(dim=1) / delta.square().sum())
    return torch.cat(parts)


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


def measure(
    problem: Regression, steps: int, groups: int, local_size: int, generator: Generator
) -> Prediction:
    """What ``Monitor`` says after ``steps`` optimizer steps of ``groups`` micro-batches, the
    weights held still.

    Raises:
        ValueError: these steps do not resolve the noise scale.
    """
    model = torch.nn.Linear(problem.d, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(problem.delta)
    monitor = Monitor(MicroBatches())
    with monitor.attach(dict(model.named_parameters())):
        for _ in range(steps):
            model.zero_grad()
            for _ in range(groups):
                x, y = problem.draw(local_size, generator=generator)
                with monitor.micro_batch(size=local_size, weight=1 / groups):
                    loss = (model(x).squeeze(1) - y).square().mean() / 2
                    (loss / groups).backward()
            monitor.step()
        monitor.flush()
    estimate = monitor.estimate()
    if estimate.noise_scale is None or estimate.low is None or estimate.high is None:
        raise ValueError(
            f"B_simple is not resolved after {steps} steps ({estimate}). Use a larger --steps."
        )
    return Prediction(estimate.noise_scale, estimate.low, estimate.high)


def all_sizes(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All in one group, as the random numbers of one size follow those of the one before."""
    if done:
        return
    problem, generator = Regression(), Generator().manual_seed(options.seed)
    prediction = measure(problem, options.steps, options.groups, options.local_size, generator)
    rows = []
    for size in SIZES:
        errors = squared_errors(problem, size, options.examples // size, generator)
        se = float(errors.std() / len(errors) ** 0.5)
        band = (bound / size for bound in prediction)
        rows.append(
            Row(size, len(errors), float(errors.mean()), se, problem.noise_scale / size, *band)
        )
    yield rows


def table(rows: Sequence[Row]) -> str:
    """Errors beside the exact ones, in standard errors, and what one short run predicts."""
    lines = []
    for r in rows:
        z = (r.error - r.exact) / r.standard_error
        numbers = (f"{value:.4g}" for value in (r.error, r.standard_error, r.exact))
        band = f"{r.predicted_low:.4g} … {r.predicted_high:.4g}"
        counts = (str(r.global_size), str(r.batches))
        lines.append((*counts, *numbers, f"{z:+.1f}", f"{r.predicted:.4g}", band))
    measured = ("B", "batches", "error", "s.e.", "B_simple/B", "z")
    return markdown((*measured, "predicted", "95 % interval"), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The measured errors on the package's line, log-log, readable in grey."""
    # optional: only the picture needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [row.global_size for row in rows]
    prediction = Prediction(*(bound * sizes[0] for bound in rows[0][-3:]))
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    name = r"$B_\mathrm{simple}$"
    label = f"predicted: {name} = {prediction.noise_scale:.1f} examples, from Monitor in one run"
    axes.plot(sizes, [row.predicted for row in rows], color="0.4", label=label)
    axes.fill_between(
        sizes,
        [row.predicted_low for row in rows],
        [row.predicted_high for row in rows],
        color="0.82",
        linewidth=0,
        label=f"the 95 % interval of that reading, {prediction.low:.1f} to {prediction.high:.1f} "
        f"examples",
    )
    axes.errorbar(
        sizes,
        [row.error for row in rows],
        yerr=[4 * row.standard_error for row in rows],
        fmt="o",
        color="black",
        markersize=5,
        label="measured against the true gradient (bars: 4 standard errors)",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size $B$, examples")
    axes.set_ylabel(
        r"squared error of the gradient, $\mathrm{E}\,|G_\mathrm{est} - G|^2 \,/\, |G|^2$"
    )
    axes.set_title(f"The gradient of a batch has a relative squared error of {name} / $B$")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    examples: int = option(
        2**22,
        "examples to draw at each batch size, at least two batches of the largest",
        least=2 * max(SIZES),
    )
    steps: int = option(60, "optimizer steps from which the package estimates B_simple")
    groups: int = option(4, "micro-batches in such a step")
    local_size: int = option(8, "examples in a micro-batch")
    seed: int = option(0, "of all random numbers")


BENCHMARK = Benchmark(
    name="gradient_error",
    question="Is the relative squared error of a batch's gradient B_simple/B?",
    about=__doc__,
    row=Row,
    key=("global_size",),
    measure=all_sizes,
    options=Options(),
    quick=Options(examples=2**14),
    tables={"gradient error": table},
    minutes=1,
    draw=draw,
)
