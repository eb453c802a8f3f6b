"""What per-example gradient norms cost: the ``examples`` probe beside what a user would pick
instead.

    python benchmarks/examples_probe.py --rounds 40 [--models mlp,resnet] [--variants
    "examples,opacus ghost norms"]

The unit timed is one training step on the CPU (zero_grad, forward, backward, AdamW, and whatever
the variant adds) outside any trainer. In every round each variant of a model is visited once, in
random order; a visit makes an untimed step and then a timed one. The figure is the median over
rounds of the ratio to the plain step of the same round, with its 95 % order-statistic interval.
Learning rate 0 keeps the weights where they are, so that all variants see the same gradients in
every step.

- examples: ``Monitor`` with ``Examples()``, read (``flush``) in every step, which a real run does
  only when it logs.
- every 10th: the measured step, weight 0.1, and the one after it, which takes the hooks off, weight
  0.9: it stands for the nine others of the cycle, though eight of them have no hooks to take off.
- opacus, backpack: in a copy of the model, as they change it; the norms only, from the ordinary
  backward pass.
- vmap: the gradients of all examples by ``torch.func``, at most 2²⁸ numbers at a time; their mean
  is the step's gradient.
- LayerNorm only: the norms of LayerNorm's parameters by hooks (Gray et al. 2024), another and much
  smaller quantity.
- plain again: what the method calls a difference where there is none.

"seen" is the mean of |g_i|² over the examples, relative to vmap's: 1 where the norms are exact,
near 1 for a sketch. Opacus and BackPACK are optional: what is not installed, or does not run on a
model, has a row that says so.
"""

import argparse
import copy
import csv
import functools
import gc
import importlib
import itertools
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples, Outer, register_rule
from lightning_noise.probes.examples.rules.linear import LinearRule

PLAIN, REFERENCE = "plain", "vmap"
VMAP_NUMBERS = 2**28  # in the per-example gradients that are held at once


# ---- models -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Pre-norm causal attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, T, ·)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    """A language model over 256 tokens with an untied head."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.body = nn.Sequential(*(Block(width, max(1, width // 64)) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1]).repeat(
            len(tokens), 1
        )  # per example and contiguous, as the libraries need them
        return self.head(self.norm(self.body(self.token(tokens) + self.place(places))))


class Residual(nn.Module):
    """Two convolutions with GroupNorm."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.conv_2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm_1, self.norm_2 = nn.GroupNorm(8, outer), nn.GroupNorm(8, outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(self.norm_2(self.conv_2(y)) + self.skip(x))


def resnet(width: int) -> nn.Module:
    """Four residual blocks, the third at half and the fourth at a quarter of the resolution."""
    widths = [width, width, width, 2 * width, 4 * width]
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)
    )


def mlp(width: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


class Case(NamedTuple):
    """A model and its batch.

    Args:
        shape: of the inputs, examples first; two dimensions are tokens.
        repeats: untimed and timed steps a visit; more for a model whose step is short.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    repeats: int = 1

    def draw(self) -> tuple[Tensor, Tensor]:
        """Random inputs and targets."""
        if len(self.shape) == 2:
            tokens = torch.randint(256, (self.shape[0], self.shape[1] + 1))
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return torch.randn(self.shape), torch.randint(10, self.shape[:1])


def language(width: int, layers: int, context: int, examples: int, name: str | None = None) -> Case:
    """A transformer's case."""
    build = functools.partial(Transformer, width, layers, context)
    return Case(
        name or f"transformer d={width}, T={context}, batch {examples}", build, (examples, context)
    )


WHOLE = {
    "d256": language(256, 4, 128, 16),
    "d512": language(512, 4, 256, 8),
    "mlp": Case("MLP 784-2048-2048-10, batch 256", lambda: mlp(2048), (256, 1, 28, 28)),
    "resnet": Case("ResNet with GroupNorm, 32×32, batch 64", lambda: resnet(32), (64, 3, 32, 32)),
}
TINY = {
    "d256": language(16, 1, 6, 3),
    "d512": language(32, 1, 8, 2),
    "mlp": Case("MLP 784-16-16-10, batch 4", lambda: mlp(16), (4, 1, 28, 28)),
    "resnet": Case("ResNet with GroupNorm, 8×8, batch 3", lambda: resnet(8), (3, 3, 8, 8)),
}
SCALING = (
    *(language(width, 2, 128, 16, f"d={width}, T=128, batch 16") for width in (128, 256, 512)),
    *(language(256, 2, 2048 // n, n, f"d=256, T={2048 // n}, batch {n}") for n in (32, 8, 2)),
)
TINY_SCALING = (language(16, 1, 4, 4), language(16, 1, 8, 2))


# ---- one way to train ---------------------------------------------------------------------------


class Training:
    """A model, its optimizer and its one batch."""

    def __init__(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.module, self.inputs, self.targets = module, inputs, targets
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)

    @classmethod
    def of(cls, case: Case) -> "Training":
        """Drawn from a fixed seed."""
        torch.manual_seed(0)
        return cls(case.build(), *case.draw())

    def copy(self) -> "Training":
        """With weights of its own."""
        return Training(copy.deepcopy(self.module), self.inputs, self.targets)

    def loss(self, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> Tensor:
        """Mean over the batch, whose examples have equally many targets."""
        return criterion(self.module(self.inputs).flatten(0, -2), self.targets.flatten())


class Plain:
    """The training step alone; the others add to it.

    Attributes:
        timed: the steps of a visit that are timed, by their weight in the mean step.
    """

    timed: tuple[float, ...] = (1.0,)

    def __init__(self, training: Training) -> None:
        self.training = training

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The hooks of a variant are there only inside the context: the others train the same
        model.
        """
        yield

    def warm_up(self) -> None:
        """What is needed once."""
        self.step()

    def step(self) -> None:
        """One training step."""
        self.training.optimizer.zero_grad()
        self.backward()
        self.training.optimizer.step()

    def backward(self) -> None:
        """Leaves the gradients."""
        self.training.loss().backward()

    def mean_square(self) -> float:
        """Mean over the examples of the squared norm of an example's gradient."""
        return math.nan


class Ours(Plain):
    """The probe as a plain torch loop would drive it."""

    def __init__(
        self, training: Training, *, every_n_steps: int = 1, seed: int = 0, exact: bool = False
    ) -> None:
        super().__init__(training)
        probe = Examples(exact=exact)
        probe.bind(training.module, seed=seed)
        self.monitor = Monitor(probe, every_n_steps=every_n_steps)

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self.monitor.attach(dict(self.training.module.named_parameters())):
            yield

    def step(self) -> None:
        self.training.optimizer.zero_grad()
        with self.monitor.micro_batch(size=len(self.training.inputs)):
            self.backward()
        self.monitor.step()
        self.monitor.flush()
        self.training.optimizer.step()

    def mean_square(self) -> float:
        estimate = self.monitor.estimate()  # over all steps so far, at the same weights
        return estimate.noise + estimate.signal


class EveryTenth(Ours):
    """The untimed step of a visit is the last of a cycle, the timed ones begin the next. Three
    stand for ten.
    """

    timed = (0.1, 0.9)

    def __init__(self, training: Training) -> None:
        super().__init__(training, every_n_steps=3)

    def warm_up(self) -> None:
        for _ in range(2):
            self.step()


class GramLinear(nn.Linear):
    """To be told from Linear by its rule."""


class GramOuter(Outer):
    """Exact norms from the Gram matrices of both factors, whatever they cost."""

    def norms(self) -> list[Tensor]:
        grams = torch.bmm(self.grad, self.grad.transpose(1, 2)) * torch.bmm(
            self.inputs, self.inputs.transpose(1, 2)
        )  # (B, T, T)
        return [grams.sum((1, 2)).clamp_min(0).sqrt()]


class GramRule(LinearRule):
    """That of Linear, with a Gram matrix for its weight."""

    def contributions(
        self,
        operands: Mapping[str, Tensor],
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Any]:
        parts = super().contributions(operands, inputs, grad)
        return {**parts, "weight": GramOuter(grad, inputs[0])}


class Gram(Ours):
    """The Gram trick for every Linear, in the same hooks as the sketch."""

    def __init__(self, training: Training) -> None:
        register_rule(GramLinear, GramRule())
        training = training.copy()
        for module in training.module.modules():
            if type(module) is nn.Linear:
                module.__class__ = GramLinear
        super().__init__(training, exact=True)


class Opacus(Plain):
    """Ghost norms where Opacus has them (Linear, Embedding), else per-example gradients, one layer
    at a time.
    """

    def __init__(self, training: Training) -> None:
        opacus = importlib.import_module(
            "opacus.grad_sample.grad_sample_module_fast_gradient_clipping"
        )
        super().__init__(training.copy())
        self.training.module = opacus.GradSampleModuleFastGradientClipping(self.training.module)

    def backward(self) -> None:
        super().backward()
        self._norms = self.training.module.get_norm_sample()  # (B,)

    def mean_square(self) -> float:
        return float(self._norms.square().mean())


class BackPack(Plain):
    """The extension BatchL2Grad."""

    def __init__(self, training: Training) -> None:
        self._backpack = importlib.import_module("backpack")
        self._extension = importlib.import_module("backpack.extensions").BatchL2Grad()
        super().__init__(training.copy())
        self.training.module = self._backpack.extend(self.training.module)
        self._criterion = self._backpack.extend(nn.CrossEntropyLoss())

    def backward(self) -> None:
        with self._backpack.backpack(self._extension):
            self.training.loss(self._criterion).backward()
        squares = [
            self._squares_of(module, p)
            for module in self.training.module.modules()
            for p in module.parameters(recurse=False)
        ]
        self._squares = torch.stack(squares).sum(0) * len(squares[0]) ** 2  # (B,)

    def _squares_of(self, module: nn.Module, parameter: nn.Parameter) -> Tensor:
        if not hasattr(parameter, "batch_l2"):
            # a limit of the competitor, which becomes a row of the table
            raise NotImplementedError(f"BatchL2Grad does not support {type(module).__name__}")
        return parameter.batch_l2

    def mean_square(self) -> float:
        return float(self._squares.mean())


class Vmap(Plain):
    """The gradients of all examples, as many at a time as memory allows."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        numbers = sum(parameter.numel() for parameter in training.module.parameters())
        self._chunk = max(1, VMAP_NUMBERS // numbers)
        self._gradients = torch.func.vmap(torch.func.grad(self._loss_of_one), in_dims=(None, 0, 0))

    def _loss_of_one(self, parameters: dict[str, Tensor], inputs: Tensor, target: Tensor) -> Tensor:
        output = torch.func.functional_call(
            self.training.module, parameters, (inputs.unsqueeze(0),)
        )
        return F.cross_entropy(output.flatten(0, -2), target.flatten())

    def backward(self) -> None:
        parameters = {
            name: parameter.detach() for name, parameter in self.training.module.named_parameters()
        }
        examples = len(self.training.inputs)
        squares, total = (
            [],
            {name: torch.zeros_like(parameter) for name, parameter in parameters.items()},
        )
        pairs = zip(
            self.training.inputs.split(self._chunk),
            self.training.targets.split(self._chunk),
            strict=True,
        )
        for inputs, targets in pairs:
            gradients = self._gradients(parameters, inputs, targets)
            squares.append(
                sum(
                    torch.linalg.vector_norm(g.flatten(1), dim=1).square()
                    for g in gradients.values()
                )
            )
            for name, gradient in gradients.items():
                total[name].add_(gradient.sum(0))
        for name, parameter in self.training.module.named_parameters():
            parameter.grad = total[name].div_(examples)
        self._squares = torch.cat(squares)

    def mean_square(self) -> float:
        return float(self._squares.mean())


class LayerNormOnly(Plain):
    """Exact norms of LayerNorm's parameters: γ from Σ_t g_t x̂_t, β from Σ_t g_t."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._layers = [
            module for module in training.module.modules() if isinstance(module, nn.LayerNorm)
        ]
        if not self._layers:
            raise ValueError("no LayerNorm in the model")

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.register_forward_hook(self._on_forward).remove)
            yield

    def _on_forward(self, layer: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        output.register_hook(
            lambda grad: self._add(grad, F.layer_norm(x, layer.normalized_shape, eps=layer.eps))
        )

    def _add(self, grad: Tensor, normed: Tensor) -> None:
        self._parts += [
            (grad * normed).flatten(1, -2).sum(1),
            grad.flatten(1, -2).sum(1),
        ]  # (B, d) each

    def backward(self) -> None:
        self._parts: list[Tensor] = []
        super().backward()
        self._squares = torch.cat(self._parts, 1).square().sum(1) * len(self.training.inputs) ** 2

    def mean_square(self) -> float:
        return float(self._squares.mean())


class Variant(NamedTuple):
    """A name and how to make it; ``frequent`` ones are in all rounds."""

    name: str
    make: Callable[[Training], Plain]
    frequent: bool = False


VARIANTS = (
    Variant(PLAIN, Plain, frequent=True),
    Variant("examples", Ours, frequent=True),
    Variant("examples, every 10th", EveryTenth, frequent=True),
    Variant("examples, exact", functools.partial(Ours, exact=True)),
    Variant("opacus ghost norms", Opacus),
    Variant("backpack BatchL2Grad", BackPack),
    Variant(REFERENCE, Vmap),
    Variant("LayerNorm only", LayerNormOnly),
    Variant("plain again", Plain),
)
SCALING_VARIANTS = (VARIANTS[0], VARIANTS[1], Variant("examples, Gram only", Gram, frequent=True))


# ---- the measurement ----------------------------------------------------------------------------


class Record(NamedTuple):
    """One line of the raw results.

    Args:
        part: "step", "scaling" or "memory".
        seconds: of a step on the wall's clock; ``cpu_seconds`` on the processor's, over all
            threads.
        mean_square: see :meth:`Plain.mean_square`, over all steps so far for the probe.
        mebibytes: peak resident memory of a process of its own.
        note: why there are no numbers.
    """

    part: str
    model: str
    variant: str
    round: int = 0
    place: int = 0
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    mean_square: float = math.nan
    mebibytes: float = math.nan
    note: str = ""


def make(variant: Variant, training: Training) -> Plain | str:
    """The variant after its first steps, or the reason why it does not run."""
    try:
        method = variant.make(training)
        with method.watching():
            method.warm_up()
    except ModuleNotFoundError as error:
        return f"not run: {error.name} is not installed"
    except (
        Exception
    ) as error:  # another's library may raise anything, and the table goes on without it
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"not run: {reason[:120]}"
    return method


def visit(method: Plain, repeats: int) -> tuple[float, float]:
    """Mean duration of a step by both clocks."""
    wall = processor = 0.0
    gc.collect()
    with method.watching():
        for _ in range(repeats):
            method.step()
            for weight in method.timed:
                start, start_cpu = time.perf_counter(), time.process_time()
                method.step()
                wall += weight / repeats * (time.perf_counter() - start)
                processor += weight / repeats * (time.process_time() - start_cpu)
    return wall, processor


def time_rounds(
    part: str, case: Case, variants: Sequence[Variant], rounds: int, rare_rounds: int
) -> Iterator[Record]:
    """All variants once a round in random order; those that are not frequent in ``rare_rounds``
    evenly spaced rounds.
    """
    training, order, methods = Training.of(case), random.Random(0), {}
    for variant in variants if rounds else ():
        method = make(variant, training)
        if isinstance(method, str):
            yield Record(part, case.name, variant.name, note=method)
        else:
            methods[variant] = method
    for number in range(rounds):
        rare = (number + 1) * rare_rounds // rounds > number * rare_rounds // rounds
        present = [variant for variant in methods if variant.frequent or rare]
        for place, variant in enumerate(order.sample(present, len(present))):
            times = visit(methods[variant], case.repeats)
            yield Record(
                part, case.name, variant.name, number, place, *times, methods[variant].mean_square()
            )


def peaks(
    key: str, case: Case, variants: Sequence[Variant], args: argparse.Namespace
) -> Iterator[Record]:
    """Peak resident memory of a few steps in a process of their own, all libraries included.

    glibc's threshold for giving blocks back is pinned: left alone it moves the peak by 1 % from run
    to run.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    size = ["--tiny"] if args.tiny else []
    for run in range(args.memory_runs):
        for place, variant in enumerate(variants):
            command = [
                sys.executable,
                __file__,
                "--peak",
                key,
                variant.name,
                f"--threads={args.threads}",
                *size,
            ]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            )
            answer = done.stdout.strip()
            if answer.startswith("not run"):
                yield Record("memory", case.name, variant.name, run, place, note=answer)
            else:
                yield Record("memory", case.name, variant.name, run, place, mebibytes=float(answer))


def own_peak(case: Case, variant: Variant) -> float | str:
    """That of this process, MiB, which must have trained nothing before."""
    for optional in (
        "opacus",
        "backpack",
    ):  # in all processes alike: what a library weighs is not what its norms cost
        with suppress(ImportError):
            importlib.import_module(optional)
    method = make(variant, Training.of(case))
    if isinstance(method, str):
        return method
    visit(method, 1)
    # Not ru_maxrss: Linux hands that on through exec, so a child never shows less than the parent
    # that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- the report ---------------------------------------------------------------------------------


class Ratio(NamedTuple):
    """A median with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


class Row(NamedTuple):
    """A line of the tables; NaN where nothing was measured.

    Args:
        rounds: in which the variant was timed.
        seconds: of a step, median.
        ratio: to the plain step of the same round; ``cpu_ratio`` by the processor's clock.
        added: seconds beyond it, median of the differences.
        seen: mean |g_i|² relative to the reference.
        memory: peak relative to plain; ``added_mebibytes`` beyond it.
    """

    part: str
    model: str
    variant: str
    rounds: int
    seconds: float
    ratio: Ratio
    cpu_ratio: Ratio
    added: float
    seen: float
    memory: float
    added_mebibytes: float
    note: str


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval for the median, from order statistics; below 6 values (at 95 %)
    simply their range.

    >>> median_interval(range(1, 41))
    (14, 27)
    """
    ordered, n = sorted(values), len(values)
    rank, tail = 0, 0.5**n  # the probability that at most ``rank`` values lie below the median
    while rank + 1 < n / 2 and 2 * (tail + math.comb(n, rank + 1) * 0.5**n) <= 1 - confidence:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]


def summarise(records: Sequence[Record]) -> list[Row]:
    """One row for each model and variant: models in the order of their first records, variants as
    they are listed.
    """
    groups = dict.fromkeys(
        (r.part if r.part == "scaling" else "step", r.model, r.variant) for r in records
    )
    models, names = (
        list(dict.fromkeys(r.model for r in records)),
        [v.name for v in (*VARIANTS, *SCALING_VARIANTS)],
    )
    groups = sorted(
        groups,
        key=lambda group: (group[0] == "scaling", models.index(group[1]), names.index(group[2])),
    )
    return [_row(records, *group) for group in groups]


def _row(records: Sequence[Record], part: str, model: str, variant: str) -> Row:
    here = [r for r in records if r.model == model and (r.part == "scaling") == (part == "scaling")]
    mine = [r for r in here if r.variant == variant]
    timed = [r for r in mine if r.seconds > 0]
    plain = {r.round: r for r in here if r.variant == PLAIN and r.seconds > 0}
    pairs = [(r, plain[r.round]) for r in timed if r.round in plain]
    truth = _last(r.mean_square for r in here if r.variant == REFERENCE)
    peak, plain_peak = (
        _median([r.mebibytes for r in here if r.variant == name and r.mebibytes > 0])
        for name in (variant, PLAIN)
    )
    return Row(
        part=part,
        model=model,
        variant=variant,
        rounds=len(timed),
        seconds=_median([r.seconds for r in timed]),
        ratio=_ratio([r.seconds / base.seconds for r, base in pairs]),
        cpu_ratio=_ratio([r.cpu_seconds / base.cpu_seconds for r, base in pairs]),
        added=_median([r.seconds - base.seconds for r, base in pairs]),
        seen=_last(r.mean_square for r in mine) / truth,
        memory=peak / plain_peak,
        added_mebibytes=peak - plain_peak,
        note=next((r.note for r in mine if r.note), ""),
    )


def _ratio(values: Sequence[float]) -> Ratio:
    return (
        Ratio(statistics.median(values), *median_interval(values))
        if values
        else Ratio(math.nan, math.nan, math.nan)
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _last(values: Iterable[float]) -> float:
    return ([math.nan] + [value for value in values if not math.isnan(value)])[-1]


def table(rows: Sequence[Row]) -> str:
    """The rows of one part in Markdown."""
    scaling = bool(rows) and rows[0].part == "scaling"
    last = [
        "added, µs a token" if scaling else "seen",
        *([] if scaling else ["peak memory, ratio (MiB added)"]),
    ]
    heads = [
        "model",
        "variant",
        "rounds",
        "step, ms",
        "step time, ratio [95 %]",
        "CPU time, ratio [95 %]",
        *last,
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        ratios = [f"{r.median:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in (row.ratio, row.cpu_ratio)]
        ratios = [row.note, "–"] if row.note else ratios
        tail = [f"{row.added * 1e6 / 2048:.1f}"] if scaling else [f"{row.seen:.4g}", _memory(row)]
        cells = [
            row.model,
            row.variant,
            str(row.rounds),
            f"{row.seconds * 1e3:.1f}",
            *ratios,
            *tail,
        ]
        lines.append(["–" if "nan" in cell.split(" ")[0] else cell for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _memory(row: Row) -> str:
    return "–" if math.isnan(row.memory) else f"{row.memory:.3f} ({row.added_mebibytes:+.0f})"


def machine() -> str:
    """What the figures were taken on, without names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, torch "
        f"{torch.__version__} with "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}"
    )


def load(path: Path) -> list[Record]:
    """Raw results as they were written."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    kinds = [type(default) for default in Record("", "", "")]
    return [Record(*(kind(cell) for kind, cell in zip(kinds, line, strict=True))) for line in lines]


def saving(records: Iterable[Record], path: Path | None, *, append: bool) -> Iterator[Record]:
    """Writes each record as it comes: a run that is cut short leaves what it has."""
    if path is None:
        yield from records
        return
    with path.open("a" if append else "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow(Record._fields)
        for record in records:
            writer.writerow(
                [f"{value:.6g}" if isinstance(value, float) else value for value in record]
            )
            file.flush()
            yield record


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks that the other libraries make on every run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule")  # vmap, of attention
        warnings.filterwarnings(
            "ignore", message=".*[Ff]ull backward hook"
        )  # Opacus and BackPACK, at the first layer
        yield


def measure(args: argparse.Namespace) -> Iterator[Record]:
    """All that was asked for, model by model."""
    wanted = [variant for variant in VARIANTS if variant.name in args.variants]
    cases = TINY if args.tiny else WHOLE
    rare_rounds = args.rounds if args.rare_rounds is None else min(args.rare_rounds, args.rounds)
    for key in args.models:
        yield from time_rounds("step", cases[key], wanted, args.rounds, rare_rounds)
        yield from peaks(key, cases[key], wanted, args)
    for case in TINY_SCALING if args.tiny else SCALING:
        yield from time_rounds(
            "scaling", case, SCALING_VARIANTS, args.scaling_rounds, args.scaling_rounds
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [variant.name for variant in VARIANTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--rare-rounds",
        type=int,
        help="rounds that hold the variants other than the probe's; default: all",
    )
    parser.add_argument(
        "--scaling-rounds", type=int, default=12, help="rounds of the second table; 0: none"
    )
    parser.add_argument(
        "--memory-runs", type=int, default=1, help="processes for each model and variant; 0: none"
    )
    parser.add_argument(
        "--models",
        type=_words(list(WHOLE)),
        default=list(WHOLE),
        help="comma-separated: " + ", ".join(WHOLE),
    )
    parser.add_argument(
        "--variants",
        type=_words(names, ";"),
        default=names,
        help="semicolon-separated: " + "; ".join(names),
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch"
    )
    parser.add_argument("--csv", type=Path, help="file to write the raw results to")
    parser.add_argument(
        "--append", action="store_true", help="add to the file, and report all of it"
    )
    parser.add_argument("--tiny", action="store_true", help="small models, for the tests")
    parser.add_argument(
        "--peak", nargs=2, metavar=("MODEL", "VARIANT"), help="only print its peak memory, MiB"
    )
    return parser.parse_args(argv)


def _words(known: Sequence[str], separator: str = ",") -> Callable[[str], list[str]]:
    def split(text: str) -> list[str]:
        words = [word.strip() for word in text.split(separator)]
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return words

    return split


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, writes the raw results, prints the tables and returns their rows."""
    args = parse(argv)
    if args.threads != torch.get_num_threads():
        torch.set_num_threads(args.threads)
    if args.peak:
        key, name = args.peak
        variant = next(variant for variant in VARIANTS if variant.name == name)
        with quiet():
            print(own_peak((TINY if args.tiny else WHOLE)[key], variant))
        return []
    append = args.append and args.csv is not None and args.csv.exists()
    earlier = load(args.csv) if append else []
    with quiet():
        rows = summarise([*earlier, *saving(measure(args), args.csv, append=append)])
    print(machine(), "", table([row for row in rows if row.part == "step"]), sep="\n")
    if any(row.part == "scaling" for row in rows):
        print("", table([row for row in rows if row.part == "scaling"]), sep="\n")
    return rows


if __name__ == "__main__":
    main()
