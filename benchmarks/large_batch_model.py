"""Does one SGD step behave as the large-batch model says? The best step and the decrease of the
loss at many batch sizes.

    python benchmarks/large_batch_model.py [--csv benchmarks/results/large_batch_model.csv]
                                           [--figure docs/images/large_batch_model.png]

The CNN of ``examples/digits.py`` is trained for a few steps on a third of the digits; its weights
are then held still. The other 1198 examples are new to it. In every repetition B of them, drawn at
random without replacement, give a gradient, and 598 others the loss along it: L(w − ε g) at many ε.
The mean over repetitions has its minimum at eps_opt(B), and there the loss has fallen by dL_opt(B).
McCandlish et al. 2018 predict

    eps_opt(B) = eps_max/(1 + B_noise/B)   (eq. 2.6)
    dL_opt(B) = dL_max/(1 + B_noise/B)     (eq. 2.7)

Both are fitted to the measured values, each with its own B_noise, and stand beside B_noise, eps_max
and dL_max from Hessian-vector products (``measure_noise_scale``), which never make a step. The
model is a parabola along the gradient: where the loss is not one at eps_opt, the two differ.
Intervals of the fits are bootstraps over repetitions.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import NoiseScales, measure_noise_scale

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitsNet

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
HELD = 598
RATES = np.geomspace(0.004, 4.0, 31)  # ε at which the loss is taken
Array = NDArray[np.float64]


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) and labels (N,): those that were trained on, and those that are new."""

    trained: TensorDataset
    new: TensorDataset


def load(seed: int) -> Digits:
    """A third of the digits to train on, two thirds to measure on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    parts = (TensorDataset(images[index], labels[index]) for index in (order[:599], order[599:]))
    return Digits(*parts)


def loss_of(module: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Cross entropy, mean over the batch."""
    # as in geometries.py
    # nn.Module does not declare net
    return F.cross_entropy(module.net(batch[0]), batch[1])  # type: ignore[operator]


def train(data: Digits, steps: int, learning_rate: float, seed: int) -> DigitsNet:
    """The CNN after so many steps of SGD on batches of 32."""
    torch.manual_seed(seed)
    module = DigitsNet(learning_rate)
    optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate)
    done = 0
    while done < steps:
        for batch in DataLoader(data.trained, batch_size=32, shuffle=True, drop_last=True):
            if done == steps:
                break
            optimizer.zero_grad()
            loss_of(module, batch).backward()
            optimizer.step()
            done += 1
    return module


def decreases(
    module: DigitsNet, data: Digits, size: int, repetitions: int, generator: torch.Generator
) -> Array:
    """L(w) − L(w − ε g) on held data at all RATES for gradients of ``size`` examples, shape
    (repetitions, rates).
    """
    parameters = list(module.parameters())
    start = [p.detach().clone() for p in parameters]
    found = np.empty((repetitions, len(RATES)))
    for repetition in range(repetitions):
        order = torch.randperm(len(data.new), generator=generator)
        batch, held = data.new[order[:size]], data.new[order[-HELD:]]
        gradient = torch.autograd.grad(loss_of(module, batch), parameters)
        with torch.no_grad():
            before = float(loss_of(module, held))
            for column, rate in enumerate(RATES):
                for p, w, g in zip(parameters, start, gradient, strict=True):
                    torch.add(w, g, alpha=-float(rate), out=p)
                found[repetition, column] = before - float(loss_of(module, held))
            for p, w in zip(parameters, start, strict=True):
                p.copy_(w)
    return found


def best_step(curve: Array) -> tuple[float, float]:
    """(eps_opt, dL_opt): the top of a mean curve over RATES, from a parabola in ln ε through three
    points (good to 3 %).
    """
    top = int(np.clip(np.argmax(curve), 1, len(RATES) - 2))
    x, y = np.log(RATES[top - 1 : top + 2]), curve[top - 1 : top + 2]
    a, b, c = np.polyfit(x - x[1], y, 2)
    shift = float(np.clip(-b / (2 * a), x[0] - x[1], x[2] - x[1])) if a < 0 else 0.0
    return float(np.exp(x[1] + shift)), float(a * shift**2 + b * shift + c)


def fit(values: Array) -> tuple[float, float]:
    """(greatest value, B_noise) of greatest/(1 + B_noise/B), least squares in the logarithm."""

    def model(ln_size: Array, ln_greatest: float, ln_noise: float) -> Array:
        return ln_greatest - np.log1p(np.exp(ln_noise - ln_size))

    start = (float(np.log(values.max())), float(np.log(SIZES[len(SIZES) // 2])))
    (greatest, noise), _ = curve_fit(model, np.log(SIZES), np.log(values), p0=start)
    return float(np.exp(greatest)), float(np.exp(noise))


class Fits(NamedTuple):
    """Of eqs. 2.6 and 2.7 to the measured steps."""

    eps_max: float
    b_noise_eps: float
    dl_max: float
    b_noise_dl: float


def fit_both(curves: Sequence[Array]) -> Fits:
    """From curves (repetitions, rates) at every size."""
    points = np.array([best_step(c.mean(axis=0)) for c in curves])  # (sizes, 2)
    return Fits(*fit(points[:, 0]), *fit(np.maximum(points[:, 1], 1e-12)))


def bootstrap(curves: Sequence[Array], draws: int, rng: np.random.Generator) -> list[Fits]:
    """Fits to repetitions drawn with replacement."""
    return [fit_both([c[rng.integers(len(c), size=len(c))] for c in curves]) for _ in range(draws)]


class Result(NamedTuple):
    """All that was measured at one checkpoint."""

    steps: int
    loss: float
    eps_opt: Array
    dl_opt: Array
    errors: Array  # standard errors (sizes, 2), bootstrap
    fits: Fits
    spread: Array  # 2.5 and 97.5 % of each fitted number, shape (2, 4)
    products: NoiseScales


def measure(steps: int, arguments: argparse.Namespace) -> Result:
    """One checkpoint: line searches, fits and products."""
    data = load(arguments.seed)
    module = train(data, steps, arguments.learning_rate, arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed + 1)
    curves = [decreases(module, data, size, arguments.repetitions, generator) for size in SIZES]
    rng = np.random.default_rng(arguments.seed)
    again = [
        [best_step(c[rng.integers(len(c), size=len(c))].mean(axis=0)) for c in curves]
        for _ in range(arguments.bootstrap)
    ]
    points = np.array([best_step(c.mean(axis=0)) for c in curves])
    spread = np.percentile(
        np.array(bootstrap(curves, arguments.bootstrap, rng)), (2.5, 97.5), axis=0
    )
    loader = DataLoader(
        data.new,
        batch_size=20,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    products = measure_noise_scale(
        module,
        loader,
        loss_fn=loss_of,
        relative_error=arguments.relative_error,
        max_examples=arguments.max_examples,
        progress=False,
    )
    with torch.no_grad():
        loss = float(loss_of(module, data.new[:]))
    return Result(
        steps,
        loss,
        points[:, 0],
        points[:, 1],
        np.array(again).std(axis=0),
        fit_both(curves),
        spread,
        products,
    )


def rows(results: Sequence[Result]) -> list[dict[str, float | int | str]]:
    """Tidy: one quantity a row."""
    found: list[dict[str, float | int | str]] = []
    for r in results:

        def add(
            quantity: str,
            value: float | None,
            low: float | None,
            high: float | None,
            size: int | str = "",
        ) -> None:
            found.append(
                {
                    "checkpoint": r.steps,  # noqa: B023  # called in this turn of the loop only
                    "quantity": quantity,
                    "global_size": size,
                    "value": "" if value is None else f"{value:.5g}",
                    "low": "" if low is None else f"{low:.5g}",
                    "high": "" if high is None else f"{high:.5g}",
                }
            )

        add("loss", r.loss, None, None)
        for i, size in enumerate(SIZES):
            add(
                "eps_opt",
                r.eps_opt[i],
                r.eps_opt[i] - 2 * r.errors[i, 0],
                r.eps_opt[i] + 2 * r.errors[i, 0],
                size,
            )
            add(
                "dl_opt",
                r.dl_opt[i],
                r.dl_opt[i] - 2 * r.errors[i, 1],
                r.dl_opt[i] + 2 * r.errors[i, 1],
                size,
            )
        for i, name in enumerate(Fits._fields):
            add(f"fit {name}", r.fits[i], r.spread[0, i], r.spread[1, i])
        noise, simple = r.products["hessian"], r.products["euclidean"]
        add("products b_noise", noise.noise_scale, noise.low, noise.high)
        add("products b_simple", simple.noise_scale, simple.low, simple.high)
        for name, bounded in (("eps_max", r.products.eps_max), ("dl_max", r.products.dl_max)):
            add(f"products {name}", *(bounded or (None, None, None)))
        add("products examples", r.products.examples, None, None)
        add("products indefinite", r.products.indefinite, None, None)
    return found


def markdown(results: Sequence[Result]) -> str:
    """Fits beside products."""
    head = (
        "after steps",
        "loss",
        "quantity",
        "from the steps (eq. 2.6)",
        "from the steps (eq. 2.7)",
        "from products",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in results:
        noise, eps, dl = r.products["hessian"], r.products.eps_max, r.products.dl_max
        b_eps, b_dl = _cell(r.fits[1], *r.spread[:, 1]), _cell(r.fits[3], *r.spread[:, 3])
        greatest, most = _cell(r.fits[0], *r.spread[:, 0]), _cell(r.fits[2], *r.spread[:, 2])
        start = f"| {r.steps} | {r.loss:.3f} |"
        lines.append(
            f"{start} B_noise | {b_eps} | {b_dl} | "
            f"{_cell(noise.noise_scale, noise.low, noise.high)} |"
        )
        lines.append(f"{start} eps_max | {greatest} | | {_cell(*(eps or (None, None, None)))} |")
        lines.append(f"{start} dL_max | | {most} | {_cell(*(dl or (None, None, None)))} |")
    return "\n".join(lines)


def _cell(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return f"not resolved, at least {low:.3g}" if low is not None else "not defined"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def draw(path: Path, results: Sequence[Result]) -> None:
    """Measured steps, fits, and the curves that the products predict."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(results), 2, figsize=(10, 3.6 * len(results)), squeeze=False, sharex=True
    )
    sizes = np.geomspace(SIZES[0] / 1.5, SIZES[-1] * 1.5, 100)
    for (left, right), r in zip(axes, results, strict=True):
        products, noise = r.products, r.products["hessian"].noise_scale
        parts = (
            (
                left,
                r.eps_opt,
                r.errors[:, 0],
                r.fits[:2],
                products.eps_max,
                "best learning rate",
                "eps_max",
            ),
            (
                right,
                r.dl_opt,
                r.errors[:, 1],
                r.fits[2:],
                products.dl_max,
                "best decrease of the held loss",
                "dL_max",
            ),
        )
        for ax, values, errors, (greatest, fitted), bounded, label, name in parts:
            ax.errorbar(
                SIZES,
                values,
                2 * errors,
                fmt="o",
                color="#1f77b4",
                label="measured by line search (2 s.e.)",
            )
            text = f"fit: {name} {greatest:.3g}, B_noise {fitted:.3g}"
            ax.plot(sizes, greatest / (1 + fitted / sizes), color="#1f77b4", label=text)
            if bounded is not None and noise is not None:
                text = f"products: {name} {bounded.value:.3g}, B_noise {noise:.3g}"
                ax.plot(
                    sizes, bounded.value / (1 + noise / sizes), "--", color="#d62728", label=text
                )
            ax.set(
                xscale="log",
                yscale="log",
                ylabel=label,
                title=f"after {r.steps} steps, loss {r.loss:.2f}",
            )
            ax.legend(fontsize=8)
            ax.grid(alpha=0.3, which="both")
    for ax in axes[-1]:
        ax.set_xlabel("batch size B (examples)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Measures every checkpoint, prints the table and returns what it is made of."""
    parser = argparse.ArgumentParser(description="The large-batch model, measured on the digits.")
    parser.add_argument(
        "--checkpoints", type=int, nargs="+", default=[150, 400], help="steps trained"
    )
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--repetitions", type=int, default=64)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--relative-error", type=float, default=0.1)
    parser.add_argument("--max-examples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = [measure(steps, arguments) for steps in arguments.checkpoints]
    print(markdown(results))
    if arguments.csv:
        table = rows(results)
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    if arguments.figure:
        draw(arguments.figure, results)
    return results


if __name__ == "__main__":
    main()
