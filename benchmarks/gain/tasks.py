"""Small real tasks that train many runs at once: weights stacked over learning rates and seeds.

Every task gives batches from fresh draws or a finite data set, and the mean loss of each lane. The
rule for the learning rate was chosen on digits CNN, next byte and teacher before any adaptive run
of patches and noisy digits. That averages decay by steps was chosen on the same three, after four
runs of patches had shown that a wide interval holds the size back; noisy digits was untouched until
then.
"""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.digits import digits

Batch = tuple[Tensor, ...]  # each (lanes, examples, …)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and when it is done.

    Args:
        name: of the task.
        optimizer: "sgd" (momentum 0.9) or "adam".
        shapes: of the parameters; matrices are (inputs, outputs).
        draw: (generator, examples) → one batch without lanes.
        loss: (parameters with lanes, batch with lanes) → (lanes,) mean losses.
        goal: value of the smoothed training loss that ends a run.
        window: examples over which the training loss is smoothed, at any size.
        data_size: examples of a finite data set; infinite for fresh draws.
        sizes: of the sweep.
        start: size that adaptive runs start from.
        rate: where the search for the learning rate begins, at ``sizes[0]``.
        most_examples: a run ends there.
        below: adaptive runs start that many times below the best fixed size; 0: from ``start``.
    """

    name: str
    optimizer: str
    shapes: tuple[tuple[int, ...], ...]
    draw: Callable[[torch.Generator, int], Batch]
    loss: Callable[[list[Tensor], Batch], Tensor]
    goal: float
    window: float = 2048
    data_size: float = math.inf
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    start: int = 4
    rate: float = 0.01
    most_examples: int = 1_000_000
    below: int = 0
    numel: int = field(init=False)

    def __post_init__(self) -> None:
        total = sum(math.prod(shape) for shape in self.shapes)
        object.__setattr__(self, "numel", total)

    def initial(self, seed: int) -> Tensor:
        """Flat parameters (numel,)."""
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for shape in self.shapes:
            part = torch.zeros(shape)
            if len(shape) > 1:
                part = torch.randn(shape, generator=generator) / shape[0] ** 0.5
            parts.append(part.flatten())
        return torch.cat(parts)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Parameters as views of (lanes, numel)."""
        parts = []
        at = 0
        for shape in self.shapes:
            count = math.prod(shape)
            parts.append(flat[:, at : at + count].view(-1, *shape))
            at += count
        return parts

    def gradients(self, flat: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (lanes,) and gradients (lanes, numel)."""
        flat = flat.detach().requires_grad_()
        losses = self.loss(self.split(flat), batch)
        (gradient,) = torch.autograd.grad(losses.sum(), flat)
        return losses.detach(), gradient


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (lanes, rows, in), weight (lanes, in, out), bias (lanes, out)."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """logits (lanes, rows, classes), target (lanes, rows); (lanes,) means."""
    picked = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - picked).mean(-1)


# Digits


@cache
def digit_patches() -> Tensor:
    """(1797, 16, 9): what a 3 x 3 convolution with stride 2 sees."""
    images, _ = digits()
    return F.unfold(images, 3, padding=1, stride=2).transpose(1, 2).contiguous()


@cache
def neighbours() -> Tensor:
    """(16, 9): positions of a padded 4 x 4 map that a 3 x 3 convolution sees; 16 is the padding."""
    positions = torch.full((6, 6), 16)
    positions[1:5, 1:5] = torch.arange(16).view(4, 4)
    windows = positions.unfold(0, 3, 1).unfold(1, 3, 1)
    return windows.reshape(16, 9)


def draw_digits(generator: torch.Generator, examples: int) -> Batch:
    index = torch.randint(1797, (examples,), generator=generator)
    return digit_patches()[index], digits()[1][index]


def cnn(p: list[Tensor], batch: Batch) -> Tensor:
    x, target = batch
    lanes, rows = target.shape
    hidden = linear(x.reshape(lanes, rows * 16, 9), p[0], p[1]).relu()
    padded = F.pad(hidden.view(lanes, rows, 16, 8), (0, 0, 0, 1))
    seen = padded[:, :, neighbours().flatten()].view(lanes, rows * 16, 72)
    hidden = linear(seen, p[2], p[3]).relu().view(lanes, rows, 2, 2, 2, 2, 16)
    pooled = hidden.mean((3, 5)).reshape(lanes, rows, 64)
    return cross_entropy(linear(pooled, p[4], p[5]), target)


def draw_noisy_digits(generator: torch.Generator, examples: int) -> Batch:
    images, targets = digits()
    index = torch.randint(1797, (examples,), generator=generator)
    noise = torch.randn(examples, 64, generator=generator)
    return images.flatten(1)[index] + 0.5 * noise, targets[index]


def mlp(p: list[Tensor], batch: Batch) -> Tensor:
    hidden = linear(batch[0], p[0], p[1]).relu()
    return cross_entropy(linear(hidden, p[2], p[3]), batch[1])


# Next byte


@cache
def text() -> Tensor:
    """Bytes of the standard library's source code, the others as one symbol."""
    folder = Path(collections.__file__).parents[1]
    files = sorted(folder.glob("*.py"))[:60]
    data = b"\n".join(path.read_bytes() for path in files)[:2_000_000]
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long().clamp(max=127)


CONTEXT = 16
WIDTH = 32


def draw_text(generator: torch.Generator, examples: int) -> Batch:
    source = text()
    begins = torch.randint(len(source) - CONTEXT - 1, (examples,), generator=generator)
    return (source[begins.unsqueeze(1) + torch.arange(CONTEXT + 1)],)


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


@cache
def causal() -> Tensor:
    return torch.full((CONTEXT, CONTEXT), -1e9).triu(1)


def transformer(p: list[Tensor], batch: Batch) -> Tensor:
    tokens = batch[0]
    lanes, rows, _ = tokens.shape
    lane = torch.arange(lanes).view(-1, 1, 1)
    x = p[0][lane, tokens[..., :-1]] + p[1].unsqueeze(1)
    x = x.reshape(lanes, rows * CONTEXT, WIDTH)
    mixed = torch.bmm(norm(x), p[2]).view(lanes * rows, CONTEXT, 3, 2, WIDTH // 2)
    q, k, v = mixed.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / (WIDTH // 2) ** 0.5 + causal()).softmax(-1)
    seen = (weights @ v).transpose(1, 2).reshape(lanes, rows * CONTEXT, WIDTH)
    x = x + torch.bmm(seen, p[3])
    x = x + torch.bmm(linear(norm(x), p[4], p[5]).relu(), p[6])
    logits = torch.bmm(norm(x), p[7])
    return cross_entropy(logits, tokens[..., 1:].reshape(lanes, -1))


# Patches of photographs


@cache
def photographs() -> list[Tensor]:
    from sklearn.datasets import load_sample_images

    images = []
    for image in load_sample_images().images:
        grey = torch.tensor(image, dtype=torch.float32).mean(-1) / 255
        images.append((grey - grey.mean()) / grey.std())
    return images


@cache
def patch_pool() -> Tensor:
    """(200000, 64) patches of 8 x 8."""
    generator = torch.Generator().manual_seed(12)
    parts = []
    for image in photographs():
        windows = image.unfold(0, 8, 1).unfold(1, 8, 1)
        rows = torch.randint(windows.shape[0], (100_000,), generator=generator)
        columns = torch.randint(windows.shape[1], (100_000,), generator=generator)
        parts.append(windows[rows, columns].reshape(-1, 64))
    return torch.cat(parts)


def draw_patches(generator: torch.Generator, examples: int) -> Batch:
    pool = patch_pool()
    return (pool[torch.randint(len(pool), (examples,), generator=generator)],)


def autoencoder(p: list[Tensor], batch: Batch) -> Tensor:
    x = batch[0]
    hidden = linear(x, p[0], p[1]).relu()
    code = linear(hidden, p[2], p[3])
    hidden = linear(code, p[4], p[5]).relu()
    return (linear(hidden, p[6], p[7]) - x).square().mean((1, 2))


def draw_digit_pixels(generator: torch.Generator, examples: int) -> Batch:
    images, _ = digits()
    return (images.flatten(1)[torch.randint(1797, (examples,), generator=generator)],)


# A teacher network


@cache
def teacher() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(20, 8, generator=generator) / 20**0.5 * 2, torch.randn(
        8, generator=generator
    )


def draw_teacher(generator: torch.Generator, examples: int) -> Batch:
    x = torch.randn(examples, 20, generator=generator)
    first, second = teacher()
    noise = torch.randn(examples, generator=generator)
    return x, torch.tanh(x @ first) @ second + 0.5 * noise


def student(p: list[Tensor], batch: Batch) -> Tensor:
    hidden = torch.tanh(linear(batch[0], p[0], p[1]))
    return (linear(hidden, p[2], p[3]).squeeze(-1) - batch[1]).square().mean(1)


KNOWN = (
    Task(
        name="digits CNN",
        optimizer="sgd",
        shapes=((9, 8), (8,), (72, 16), (16,), (64, 10), (10,)),
        draw=draw_digits,
        loss=cnn,
        goal=0.01,
        data_size=1797,
        rate=0.01,
    ),
    Task(
        name="noisy digits",
        optimizer="sgd",
        shapes=((64, 48), (48,), (48, 10), (10,)),
        draw=draw_noisy_digits,
        loss=mlp,
        goal=0.69,
        rate=0.01,
    ),
    Task(
        name="next byte",
        optimizer="adam",
        shapes=(
            (128, WIDTH),
            (CONTEXT, WIDTH),
            (WIDTH, 3 * WIDTH),
            (WIDTH, WIDTH),
            (WIDTH, 2 * WIDTH),
            (2 * WIDTH,),
            (2 * WIDTH, WIDTH),
            (WIDTH, 128),
        ),
        draw=draw_text,
        loss=transformer,
        goal=2.0,
        sizes=(4, 8, 16, 32, 64, 128),
        rate=0.002,
    ),
    Task(
        name="patches",
        optimizer="adam",
        shapes=((64, 48), (48,), (48, 8), (8,), (8, 48), (48,), (48, 64), (64,)),
        draw=draw_patches,
        loss=autoencoder,
        goal=0.0385,
        rate=0.002,
    ),
    Task(
        name="digit codes",
        optimizer="adam",
        shapes=((64, 48), (48,), (48, 8), (8,), (8, 48), (48,), (48, 64), (64,)),
        draw=draw_digit_pixels,
        loss=autoencoder,
        goal=0.0138,
        data_size=1797,
        rate=0.002,
        most_examples=3_000_000,
    ),
    Task(
        name="teacher",
        optimizer="sgd",
        shapes=((20, 32), (32,), (32, 1), (1,)),
        draw=draw_teacher,
        loss=student,
        goal=0.285,
        rate=0.005,
    ),
)


def later(name: str, goal: float, rate: float) -> Task:
    """The same with a goal that takes best fixed sizes 500 to 2000 steps.

    Goals were chosen from one run at batch size 512, before any adaptive run to them.
    """
    (task,) = [known for known in KNOWN if known.name == name]
    return replace(
        task,
        name=f"{name}, later",
        goal=goal,
        window=8192,
        sizes=(16, 32, 64, 128, 256, 512, 1024),
        start=16,
        rate=rate,
        most_examples=6_000_000,
        below=16,
    )


LATER = (later("noisy digits", 0.57, 0.006), later("patches", 0.0345, 0.0014))
FIRST = tuple(task.name for task in KNOWN)
TASKS = {task.name: task for task in (*KNOWN, *LATER)}


def task_of(name: str, *, tiny: bool = False) -> Task:
    """A task, or one like it for a run of seconds: two sizes to an easy goal."""
    task = TASKS[name]
    if not tiny:
        return task
    return replace(task, goal=4 * task.goal, sizes=task.sizes[:2], most_examples=8_000)
