"""What a curvature probe costs, and how many examples B_noise needs.

    python benchmarks/curvature.py [--csv benchmarks/results/curvature.csv]

Cost: a small transformer (without attention's fused kernel, which has no double backward on CPU)
and the CNN of ``examples/digits.py`` train with K micro-batches a step. Steps with a probe and
steps without alternate, so that a busy machine slows both alike; a line gives the median cost of a
probe in units of a plain step, and the overhead of a run at the default cadence, 1 + cost/100. The
time of a step is that of the process, not the wall's.

Precision: Gaussian gradients with a known Hessian, of which a share of the noise lies in few
directions (d_eff), as the large eigenvalues of real networks have it. A line gives the examples
that 20 % standard error of B_noise took, with probes of n examples, from the variance between
probes.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import moments_from_forms, relative_error
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.measure.what import CURVATURE_EVERY
from lightning_noise.probes.second_derivatives import hessian_forms

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitsNet


class Block(nn.Module):
    """Attention by plain products, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1)
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Transformer(nn.Module):
    """Next-token prediction over 128 tokens."""

    def __init__(self, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(128, width), nn.Linear(width, 128)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def loss(self, batch: Tensor) -> Tensor:
        """Mean over tokens."""
        return F.cross_entropy(
            self.head(self.blocks(self.embed(batch[:, :-1]))).flatten(0, 1), batch[:, 1:].flatten()
        )


class Cost(NamedTuple):
    """One line of the first table; times in milliseconds."""

    model: str
    parameters: int
    micro_batches: int
    plain_step: float
    probe_step: float
    cost: float
    overhead: float


def cost(
    name: str,
    module: nn.Module,
    loss: Callable[..., torch.Tensor],
    batches: Sequence[object],
    groups: int,
    pairs: int,
) -> Cost:
    """Alternates steps with and without a probe."""
    parameters, size = list(module.parameters()), len(batches)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * pairs + 2):
        probing = turn % 2 == 1
        optimizer.zero_grad()
        start = time.process_time()
        window = Accumulated(parameters, groups - 1) if probing else None
        for index in range(groups):
            value = loss(module, batches[(turn * groups + index) % size]) / groups
            if window is not None and window.is_complete:
                window.probe(
                    hessian_forms(value, parameters, window.vectors()) * groups, 1 / groups
                )
                window = None
            value.backward()
            if window is not None:
                window.add(1.0)
        optimizer.step()
        if turn > 1:  # the first two warm up
            times[probing].append(time.process_time() - start)
    plain, probed = (1000 * statistics.median(times[key]) for key in (False, True))
    share = (probed - plain) / plain
    numbers = sum(p.numel() for p in parameters)
    return Cost(name, numbers, groups, plain, probed, share, 1 + share / CURVATURE_EVERY)


def costs(pairs: int) -> list[Cost]:
    """All models."""
    torch.manual_seed(0)
    images = [(torch.randn(32, 1, 8, 8), torch.randint(10, (32,))) for _ in range(8)]
    tokens = [torch.randint(128, (8, 65)) for _ in range(8)]
    found = []
    for groups in (3, 8):
        digits, transformer = DigitsNet(0.1), Transformer()
        found.append(
            cost(
                "digits CNN, 32 images",
                digits,
                lambda m, b: F.cross_entropy(m.net(b[0]), b[1]),
                images,
                groups,
                pairs,
            )
        )
        found.append(
            cost(
                "transformer, 8 x 64 tokens",
                transformer,
                lambda m, b: m.loss(b),
                tokens,
                groups,
                pairs,
            )
        )
    return found


class Need(NamedTuple):
    """One line of the second table."""

    b_noise: float
    directions: int
    examples_a_probe: int
    contrasts: int
    probes: float
    examples: float


def need(
    b_noise: float, directions: int, size: int, pairs: int, draws: int, rng: np.random.Generator
) -> Need:
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
    return Need(b_noise, directions, size, contrasts, probes, probes * size)


def needs(draws: int, seed: int) -> list[Need]:
    """All settings."""
    rng = np.random.default_rng(seed)
    shares = (1 / 16, 1 / 4, 1, 4)
    return [need(256.0, d, int(256 * share), 4, draws, rng) for d in (5, 50) for share in shares]


def main(argv: Sequence[str] | None = None) -> tuple[list[Cost], list[Need]]:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description="Cost and precision of curvature probes.")
    parser.add_argument("--pairs", type=int, default=30, help="steps with and without a probe")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    found, needed = costs(arguments.pairs), needs(arguments.draws, arguments.seed)
    print(
        "| model | parameters | micro-batches | plain step (ms) | step with probe (ms) | probe / "
        "step | overhead at 100 |"
    )
    print("|---|---|---|---|---|---|---|")
    for c in found:
        numbers = f"{c.parameters:,} | {c.micro_batches} | {c.plain_step:.1f} | {c.probe_step:.1f}"
        print(f"| {c.model} | {numbers} | {c.cost:.2f} | {c.overhead:.4f} |")
    print(
        "\n| B_noise | d_eff | n, examples a probe | n/B_noise | contrasts | probes for 20 % | "
        "gradient examples for 20 % |"
    )
    print("|---|---|---|---|---|---|---|")
    for n in needed:
        share = n.examples_a_probe / n.b_noise
        print(
            f"| {n.b_noise:g} | {n.directions} | {n.examples_a_probe} | {share:g} | "
            f"{n.contrasts} | ",
            end="",
        )
        print(f"{n.probes:.0f} | {n.examples:.0f} |")
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("table", *Cost._fields))
            writer.writerows(
                ("cost", *(f"{v:.5g}" if isinstance(v, float) else v for v in c)) for c in found
            )
            writer.writerow(("table", *Need._fields))
            writer.writerows(
                ("need", *(f"{v:.5g}" if isinstance(v, float) else v for v in n)) for n in needed
            )
    return found, needed


if __name__ == "__main__":
    main()
