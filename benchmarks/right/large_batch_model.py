"""Does one SGD step behave as the large-batch model says? The best step and the decrease of the
loss at many batch sizes.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.digits import DigitsNet, loss_of, split_digits
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown, noise_scale_cell
from lightning_noise import NoiseScales, measure_noise_scale

Array = NDArray[np.float64]

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
HELD = 598
RATES = np.geomspace(0.004, 4.0, 31)  # ε at which the loss is taken


class Row(NamedTuple):
    """A quantity at a checkpoint.

    Args:
        checkpoint: optimizer steps before it.
        quantity: "eps_opt" and "dl_opt" at a batch size; "fit …" of eqs. 2.6 and 2.7; "products …"
            without any step.
        low, high: ends of the 95 % interval; two standard errors for what is at a batch size.
    """

    checkpoint: int
    quantity: str
    global_size: int | None
    value: float | None
    low: float | None = None
    high: float | None = None


def train(trained: TensorDataset, steps: int, learning_rate: float, seed: int) -> DigitsNet:
    """The CNN after so many steps of SGD on batches of 32."""
    torch.manual_seed(seed)
    module = DigitsNet(learning_rate)
    optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate)
    done = 0
    while done < steps:
        for batch in DataLoader(trained, batch_size=32, shuffle=True, drop_last=True):
            if done == steps:
                break
            optimizer.zero_grad()
            loss_of(module, batch).backward()
            optimizer.step()
            done += 1
    return module


def decreases(
    module: DigitsNet, new: TensorDataset, size: int, repetitions: int, generator: torch.Generator
) -> Array:
    """L(w) − L(w − ε g) on held data at all RATES for gradients of ``size`` examples, shape
    (repetitions, rates).
    """
    parameters = list(module.parameters())
    start = [p.detach().clone() for p in parameters]
    found = np.empty((repetitions, len(RATES)))
    for repetition in range(repetitions):
        order = torch.randperm(len(new), generator=generator)
        batch, held = new[order[:size]], new[order[-HELD:]]
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


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """Every checkpoint: line searches, fits and products."""
    for steps in options.checkpoints:
        if (steps,) not in done:
            yield list(checkpoint(steps, options))


def checkpoint(steps: int, options: "Options") -> Iterator[Row]:
    """All quantities of one checkpoint."""
    trained, new = split_digits(599, options.seed)
    module = train(trained, steps, options.learning_rate, options.seed)
    with torch.no_grad():
        yield Row(steps, "loss", None, float(loss_of(module, new[:])))
    generator = torch.Generator().manual_seed(options.seed + 1)
    curves = [decreases(module, new, size, options.repetitions, generator) for size in SIZES]
    rng = np.random.default_rng(options.seed)
    again = [
        [best_step(c[rng.integers(len(c), size=len(c))].mean(axis=0)) for c in curves]
        for _ in range(options.bootstrap)
    ]
    errors = 2 * np.array(again).std(axis=0)  # (sizes, 2)
    for index, size in enumerate(SIZES):
        best = best_step(curves[index].mean(axis=0))
        for name, value, error in zip(("eps_opt", "dl_opt"), best, errors[index], strict=True):
            yield Row(steps, name, size, value, value - float(error), value + float(error))
    fits, draws = fit_both(curves), bootstrap(curves, options.bootstrap, rng)
    spread = np.percentile(np.array(draws), (2.5, 97.5), axis=0)
    for name, value, low, high in zip(Fits._fields, fits, *spread.tolist(), strict=True):
        yield Row(steps, f"fit {name}", None, value, low, high)
    yield from of_products(steps, products(module, new, options))


def products(module: DigitsNet, new: TensorDataset, options: "Options") -> NoiseScales:
    """What Hessian-vector products say at the same weights."""
    order = torch.Generator().manual_seed(options.seed)
    return measure_noise_scale(
        module,
        DataLoader(new, batch_size=20, shuffle=True, drop_last=True, generator=order),
        loss_fn=loss_of,
        relative_error=options.relative_error,
        max_examples=options.max_examples,
        progress=False,
    )


def of_products(steps: int, found: NoiseScales) -> Iterator[Row]:
    """Their rows."""
    for name, geometry in (("b_noise", "hessian"), ("b_simple", "euclidean")):
        one = found[geometry]
        yield Row(steps, f"products {name}", None, one.noise_scale, one.low, one.high)
    for name, bounded in (("eps_max", found.eps_max), ("dl_max", found.dl_max)):
        yield Row(steps, f"products {name}", None, *(bounded or (None, None, None)))
    yield Row(steps, "products examples", None, float(found.examples))
    yield Row(steps, "products indefinite", None, found.indefinite)


Found = dict[tuple[str, int | None], Row]


def by_checkpoint(rows: Sequence[Row]) -> dict[int, Found]:
    """The rows of each checkpoint by quantity and batch size."""
    found: dict[int, Found] = {}
    for row in rows:
        found.setdefault(row.checkpoint, {})[row.quantity, row.global_size] = row
    return found


def table(rows: Sequence[Row]) -> str:
    """Fits beside products."""
    lines = []
    for steps, found in by_checkpoint(rows).items():
        start = (str(steps), f"{found['loss', None].value:.3f}")
        for quantity, eps, dl in (
            ("B_noise", "b_noise_eps", "b_noise_dl"),
            ("eps_max", "eps_max", ""),
            ("dL_max", "", "dl_max"),
        ):
            fitted = [
                noise_scale_cell(*found[f"fit {name}", None][-3:]) if name else ""
                for name in (eps, dl)
            ]
            measured = noise_scale_cell(*found[f"products {quantity.lower()}", None][-3:])
            lines.append((*start, quantity, *fitted, measured))
    where = ("from the steps, eq. 2.6", "from the steps, eq. 2.7", "from products")
    return markdown(("after steps", "held-out loss", "quantity", *where), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Measured steps, fits, and the curves that the products predict."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    checkpoints = by_checkpoint(rows)
    figure = Figure(figsize=(10, 3.6 * len(checkpoints)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(checkpoints), 2, squeeze=False, sharex=True)
    for panels, (steps, found) in zip(axes, checkpoints.items(), strict=True):
        for ax, name, greatest, noise, label in (
            (panels[0], "eps_opt", "eps_max", "b_noise_eps", "best learning rate"),
            (panels[1], "dl_opt", "dl_max", "b_noise_dl", "best decrease of the held loss"),
        ):
            curve = [row for (quantity, _), row in found.items() if quantity == name]
            fitted = (found[f"fit {greatest}", None].value, found[f"fit {noise}", None].value)
            product = (
                found[f"products {greatest}", None].value,
                found["products b_noise", None].value,
            )
            draw_curve(ax, curve, greatest, fitted, product)
            loss = found["loss", None].value
            title = f"after {steps} steps, loss {loss:.2f}"
            ax.set(xscale="log", yscale="log", ylabel=label, title=title)
            ax.legend(fontsize=8)
            ax.grid(alpha=0.3, which="both")
    for ax in axes[-1]:
        ax.set_xlabel("batch size B (examples)")
    figure.savefig(path)


def draw_curve(ax, rows: Sequence[Row], name: str, fitted, product) -> None:
    """Points with their errors, and both curves greatest/(1 + B_noise/B)."""
    sizes = [row.global_size for row in rows]
    values = [row.value for row in rows]
    errors = [row.high - row.value for row in rows]
    measured = "measured by line search (2 s.e.)"
    ax.errorbar(sizes, values, errors, fmt="o", color="#1f77b4", label=measured)
    x = np.geomspace(sizes[0] / 1.5, sizes[-1] * 1.5, 100)
    for style, color, said, (greatest, noise) in (
        ("-", "#1f77b4", "fit", fitted),
        ("--", "#d62728", "products", product),
    ):
        if greatest is not None and noise is not None:
            text = f"{said}: {name} {greatest:.3g}, B_noise {noise:.3g}"
            ax.plot(x, greatest / (1 + noise / x), style, color=color, label=text)


@dataclass(frozen=True, kw_only=True)
class Options:
    checkpoints: tuple[int, ...] = option((150, 400), "steps trained", extends=True)
    learning_rate: float = option(0.1, "of SGD")
    repetitions: int = option(64, "gradients at every batch size")
    bootstrap: int = option(200, "draws for the intervals")
    relative_error: float = option(0.1, "of measure_noise_scale")
    max_examples: int = option(200_000, "of measure_noise_scale")
    seed: int = option(0, "of all random numbers")


BENCHMARK = Benchmark(
    name="large_batch_model",
    question="Does one SGD step behave as the large-batch model says?",
    about=__doc__,
    row=Row,
    key=("checkpoint",),
    measure=measure,
    options=Options(),
    quick=Options(checkpoints=(100,), repetitions=1, bootstrap=3, max_examples=300),
    tables={"large batch model": table},
    minutes=6,
    digits=5,
    draw=draw,
)
