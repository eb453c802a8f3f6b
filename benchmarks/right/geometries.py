"""B_simple, B_noise and b_optimizer side by side along a run, each with its interval.

The CNN of ``examples/digits.py`` learns half of the digits, once with SGD and once with Adam. At
several checkpoints ``measure_noise_scale`` measures all geometries at the same frozen weights on
the other half, which is new to the model, so that the values are about the population and not about
examples learned already. ``not defined`` means that the curvature along the gradient, or over its
noise, is not positive or cannot be told from zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.digits import DigitsNet, loss_and_logits, loss_of, split_digits
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import MISSING, markdown, noise_scale_cell, number_cell
from lightning_noise import measure_noise_scale

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
}
NAMES = {
    "euclidean": "B_simple",
    "hessian": "B_noise",
    "gauss_newton": "B_gauss_newton",
    "optimizer": "b_optimizer",
}
COLORS = {
    "euclidean": "#1f77b4",
    "hessian": "#d62728",
    "gauss_newton": "#ff7f0e",
    "optimizer": "#2ca02c",
}


class Row(NamedTuple):
    """One geometry at one moment of a run."""

    optimizer: str
    step: int
    loss: float
    geometry: str
    grad_sq: float
    trace: float
    b_simple: float | None
    low: float | None
    high: float | None
    resolved: bool
    steps: int
    n_eff: float
    indefinite: float
    examples: int


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Both optimizers; the checkpoints of one come in one group each."""
    for name in OPTIMIZERS:
        if any((name, step) not in done for step in options.checkpoints):
            yield from run(name, options)


def run(name: str, options: "Options") -> Iterator[list[Row]]:
    """Trains with one optimizer and measures on the way."""
    train, new = split_digits(897, options.seed)
    torch.manual_seed(options.seed)
    module = DigitsNet(0.1)
    optimizer = OPTIMIZERS[name](module.parameters())
    loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True)
    step, wanted = 0, list(options.checkpoints)
    while wanted:
        for batch in loader:
            if wanted and step == wanted[0]:
                yield checkpoint(name, wanted.pop(0), module, optimizer, new, options)
            optimizer.zero_grad()
            loss_of(module, batch).backward()
            optimizer.step()
            step += 1


def checkpoint(
    name: str,
    step: int,
    module: DigitsNet,
    optimizer: torch.optim.Optimizer,
    new: TensorDataset,
    options: "Options",
) -> list[Row]:
    """All geometries at the present weights."""
    order = torch.Generator().manual_seed(options.seed)
    found = measure_noise_scale(
        module,
        DataLoader(new, batch_size=20, shuffle=True, drop_last=True, generator=order),
        loss_fn=loss_and_logits,
        geometry=tuple(NAMES),
        optimizer=optimizer,
        relative_error=options.relative_error,
        max_examples=options.max_examples,
        progress=False,
    )
    with torch.no_grad():
        loss = float(loss_of(module, new[:]))
    rows = []
    for geometry in NAMES:
        one = found[geometry]
        bounded = (one.noise_scale, one.low, one.high)
        counts = (one.resolved, one.steps, one.n_eff, found.indefinite, found.examples)
        rows.append(Row(name, step, loss, geometry, one.signal, one.noise, *bounded, *counts))
    return rows


Checkpoint = dict[str, Row]


def by_checkpoint(rows: Sequence[Row]) -> list[Checkpoint]:
    """The rows of each checkpoint by geometry."""
    found: dict[tuple[str, int], Checkpoint] = {}
    for row in rows:
        found.setdefault((row.optimizer, row.step), {})[row.geometry] = row
    return list(found.values())


def table(rows: Sequence[Row]) -> str:
    """A line for each checkpoint."""
    others = [name for name in NAMES if name != "euclidean"]
    lines = []
    for found in by_checkpoint(rows):
        first, hessian = found["euclidean"], found["hessian"]
        ratios = [number_cell(ratio(found[name], first), ".2f") for name in others]
        eps_max = MISSING
        if hessian.resolved:
            eps_max = number_cell(first.grad_sq / hessian.grad_sq)
        start = (first.optimizer, str(first.step), f"{first.loss:.3f}")
        scales = [noise_scale_cell(one.b_simple, one.low, one.high) for one in found.values()]
        lines.append((*start, *scales, *ratios, f"{first.indefinite:.0%}", eps_max))
    ratios = [f"{NAMES[name]}/B_simple" for name in others]
    head = ("optimizer", "step", "loss", *NAMES.values(), *ratios, "indefinite", "eps_max")
    return markdown(head, lines)


def ratio(above: Row, below: Row) -> float | None:
    """Of the noise scales; ``None`` where one is not resolved."""
    if above.b_simple is None or below.b_simple is None:
        return None
    return above.b_simple / below.b_simple


def draw(rows: Sequence[Row], path: Path) -> None:
    """Noise scales with intervals along each run; what is not defined has no mark, only its place
    on the lower edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for ax, optimizer in zip(axes, OPTIMIZERS, strict=True):
        for name, shift in zip(NAMES, (0.93, 1.0, 1.07, 1.14), strict=True):
            own = [row for row in rows if (row.optimizer, row.geometry) == (optimizer, name)]
            draw_scales(ax, own, shift)
        title = f"{optimizer}   (x: not defined or not resolved)"
        ax.set(xscale="log", yscale="log", xlabel="optimizer step", title=title)
        ax.grid(alpha=0.3, which="both")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    axes[0].set_ylabel("noise scale (examples)")
    figure.savefig(path)


def draw_scales(ax, rows: Sequence[Row], shift: float) -> None:
    """One geometry along one run, a little to the side of the others."""
    seen = [row for row in rows if row.b_simple is not None]
    absent = [row.step * shift for row in rows if row.b_simple is None]
    color = COLORS[rows[0].geometry]
    if seen:
        y = [row.b_simple for row in seen]
        low, high = [r.b_simple - r.low for r in seen], [r.high - r.b_simple for r in seen]
        style = {"fmt": "o-", "ms": 4, "lw": 1, "capsize": 2, "color": color}
        x = [row.step * shift for row in seen]
        ax.errorbar(x, y, (low, high), **style, label=NAMES[rows[0].geometry])
    edge = ax.get_xaxis_transform()
    ax.plot(absent, [0.02] * len(absent), "x", color=color, transform=edge)


@dataclass(frozen=True, kw_only=True)
class Options:
    checkpoints: tuple[int, ...] = option(
        (5, 60, 150, 300, 600, 1200), "steps after which to measure"
    )
    relative_error: float = option(0.2, "of measure_noise_scale")
    max_examples: int = option(36_000, "of measure_noise_scale")
    seed: int = option(0, "of all random numbers")


BENCHMARK = Benchmark(
    name="geometries",
    question="How do B_simple, B_noise and b_optimizer compare along a run?",
    about=__doc__,
    row=Row,
    key=("optimizer", "step"),
    measure=measure,
    options=Options(),
    quick=Options(checkpoints=(3,), max_examples=300),
    tables={"geometries": table},
    minutes=8,
    digits=5,
    draw=draw,
)
