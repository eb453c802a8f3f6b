"""B_simple, B_noise and b_optimizer side by side along a run, each with its interval.

    python benchmarks/geometries.py [--csv benchmarks/results/geometries.csv] [--figure
    docs/images/geometries.png]

The CNN of ``examples/digits.py`` learns half of the digits, once with SGD and once with Adam. At
several checkpoints ``measure_noise_scale`` measures all geometries at the same frozen weights on
the other half, which is new to the model, so that the values are about the population and not about
examples learned already. ``not defined`` means that the curvature along the gradient, or over its
noise, is not positive or cannot be told from zero.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import NoiseEstimate, NoiseScales, measure_noise_scale

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitsNet

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


def loss_of(module: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(cross entropy, mean over the batch; logits)."""
    logits = module.net(batch[0])  # type: ignore[operator]  # nn.Module does not declare net
    return F.cross_entropy(logits, batch[1]), logits


class Checkpoint(NamedTuple):
    """What was found at one moment of a run."""

    optimizer: str
    step: int
    loss: float
    found: NoiseScales


def halves(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Digits to train on and digits to measure on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images[order[:897]], labels[order[:897]]), TensorDataset(
        images[order[897:]], labels[order[897:]]
    )


def run(name: str, arguments: argparse.Namespace) -> list[Checkpoint]:
    """Trains with one optimizer and measures on the way."""
    train, new = halves(arguments.seed)
    torch.manual_seed(arguments.seed)
    module = DigitsNet(0.1)
    optimizer = OPTIMIZERS[name](module.parameters())
    loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True)
    found, step, wanted = list[Checkpoint](), 0, list(arguments.checkpoints)
    while wanted:
        for batch in loader:
            if wanted and step == wanted[0]:
                found.append(measure(name, wanted.pop(0), module, optimizer, new, arguments))
            optimizer.zero_grad()
            loss_of(module, batch)[0].backward()
            optimizer.step()
            step += 1
    return found


def measure(
    name: str,
    step: int,
    module: DigitsNet,
    optimizer: torch.optim.Optimizer,
    new: TensorDataset,
    arguments: argparse.Namespace,
) -> Checkpoint:
    """All geometries at the present weights."""
    loader = DataLoader(
        new,
        batch_size=20,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    found = measure_noise_scale(
        module,
        loader,
        loss_fn=loss_of,
        geometry=tuple(NAMES),
        optimizer=optimizer,
        relative_error=arguments.relative_error,
        max_examples=arguments.max_examples,
        progress=False,
    )
    with torch.no_grad():
        loss = float(loss_of(module, new[:])[0])
    return Checkpoint(name, step, loss, found)


def cell(estimate: NoiseEstimate) -> str:
    """Value with interval, or why there is none."""
    if estimate.noise_scale is not None:
        return f"{estimate.noise_scale:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
    return "not defined" if estimate.low is None else f"not resolved, at least {estimate.low:.3g}"


def ratio(c: Checkpoint, geometry: str) -> str:
    """To B_simple."""
    above, below = c.found[geometry].noise_scale, c.found["euclidean"].noise_scale
    return f"{above / below:.2f}" if above is not None and below is not None else "–"


def markdown(checkpoints: Sequence[Checkpoint]) -> str:
    """A line a checkpoint."""
    ratios = [f"{label}/B_simple" for name, label in NAMES.items() if name != "euclidean"]
    head = ("optimizer", "step", "loss", *NAMES.values(), *ratios, "indefinite", "eps_max")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for c in checkpoints:
        numbers = [cell(c.found[name]) for name in NAMES]
        shares = [ratio(c, name) for name in NAMES if name != "euclidean"]
        eps = "–" if c.found.eps_max is None else f"{c.found.eps_max.value:.3g}"
        fields = (
            c.optimizer,
            str(c.step),
            f"{c.loss:.3f}",
            *numbers,
            *shares,
            f"{c.found.indefinite:.0%}",
            eps,
        )
        lines.append("| " + " | ".join(fields) + " |")
    return "\n".join(lines)


def write_csv(path: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """One number a row; an empty field is a value that cannot be said."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            (
                "optimizer",
                "step",
                "loss",
                "geometry",
                *NoiseEstimate._fields,
                "indefinite",
                "examples",
            )
        )
        for c in checkpoints:
            for name in NAMES:
                values = (*c.found[name], c.found.indefinite, c.found.examples)
                texts = map(as_cell, values)
                writer.writerow((c.optimizer, c.step, f"{c.loss:.4f}", name, *texts))


def as_cell(value: object) -> object:
    """Empty for what is not defined, five digits of a float."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return value


def draw(path: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """Noise scales with intervals along each run; what is not defined has no mark, only its place
    on the lower edge.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(OPTIMIZERS), figsize=(11, 4.2), sharey=True)
    shift = dict(zip(NAMES, (0.93, 1.0, 1.07, 1.14), strict=True))
    for ax, optimizer in zip(axes, OPTIMIZERS, strict=True):
        own = [c for c in checkpoints if c.optimizer == optimizer]
        for name, label in NAMES.items():
            seen = [
                (c.step * shift[name], c.found[name])
                for c in own
                if c.found[name].noise_scale is not None
            ]
            absent = [c.step * shift[name] for c in own if c.found[name].noise_scale is None]
            if seen:
                x, y = [s for s, _ in seen], [e.noise_scale for _, e in seen]
                low, high = (
                    [e.noise_scale - e.low for _, e in seen],
                    [e.high - e.noise_scale for _, e in seen],
                )
                ax.errorbar(
                    x,
                    y,
                    (low, high),
                    fmt="o-",
                    ms=4,
                    lw=1,
                    capsize=2,
                    color=COLORS[name],
                    label=label,
                )
            ax.plot(
                absent,
                [0.02] * len(absent),
                "x",
                color=COLORS[name],
                transform=ax.get_xaxis_transform(),
            )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="optimizer step",
            title=f"{optimizer}   (x: not defined or not resolved)",
        )
        ax.grid(alpha=0.3, which="both")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    axes[0].set_ylabel("noise scale (examples)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> list[Checkpoint]:
    """Runs both optimizers, prints the table and returns its rows."""
    parser = argparse.ArgumentParser(
        description="Noise scales in all geometries along a run on the digits."
    )
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[5, 60, 150, 300, 600, 1200])
    parser.add_argument("--relative-error", type=float, default=0.2)
    parser.add_argument("--max-examples", type=int, default=36_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    checkpoints = [c for name in OPTIMIZERS for c in run(name, arguments)]
    print(markdown(checkpoints))
    if arguments.csv:
        write_csv(arguments.csv, checkpoints)
    if arguments.figure:
        draw(arguments.figure, checkpoints)
    return checkpoints


if __name__ == "__main__":
    main()
