"""Steps and examples to a goal: an adaptive batch size beside fixed ones, each at its own tuned
learning rate.

    python benchmarks/adaptive.py [--task digits] [--kind fixed] [--minutes 6] [--csv
    benchmarks/results/adaptive.csv] python benchmarks/adaptive_report.py --figure
    docs/images/adaptive.png

Two tasks, both small enough for many runs: scikit-learn's digits with a multilayer perceptron (SGD
with momentum 0.9), and Python's own source code with the transformer of examples/char_lm.py at
width 32 (AdamW). The goal is a value of the training loss, smoothed over a window of examples that
is the same for all sizes. Fixed sizes are plain training loops. The adaptive runs are Lightning's
Trainer with ``GradientNoiseScale(adaptive_batch_size=policy)``, start at a size of 16 and use the
defaults.

The learning rate of every row, at the start for the adaptive ones, is searched on a grid with seeds
of its own until the best one has worse neighbours on both sides. The score is steps x examples,
which for a fixed size orders like either. The figures are from five other seeds. Every run is one
line of the CSV file, and a run that is in it is not run again: the work can be cut into pieces.
"""

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import AdaptiveBatchSize, ExchangeRate, GradientNoiseScale, TrackNoiseScale

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from char_lm import CharLM, standard_library

SEEDS = (2, 3, 4, 5, 6)
START = 16
# a run in the search of the rate stops at so many times the examples of the best rate so far
GIVE_UP = 2.0


ADAPTIVE = {  # as written into the callback's argument
    "TrackNoiseScale()": lambda: TrackNoiseScale(),
    "TrackNoiseScale(2.0)": lambda: TrackNoiseScale(2.0),
    "ExchangeRate(256)": lambda: ExchangeRate(256),
    "ExchangeRate(1024)": lambda: ExchangeRate(1024),
    'TrackNoiseScale(), learning_rate="sqrt"': lambda: AdaptiveBatchSize(
        TrackNoiseScale(), learning_rate="sqrt"
    ),
    'ExchangeRate(256), learning_rate="sqrt"': lambda: AdaptiveBatchSize(
        ExchangeRate(256), learning_rate="sqrt"
    ),
    "ExchangeRate(256), within_epoch=True": lambda: AdaptiveBatchSize(
        ExchangeRate(256), within_epoch=True
    ),
    "ExchangeRate(256), within_epoch=True, learning_rate=None": lambda: AdaptiveBatchSize(
        ExchangeRate(256), within_epoch=True, learning_rate=None
    ),
}
WITHIN = "ExchangeRate(256), within_epoch=True"


class DigitsMLP(L.LightningModule):
    """64 - 64 - 10."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class SmallLM(CharLM):
    """The transformer of the example: width 32, one layer, 32 bytes of context."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__(width=32, layers=1, context=32, learning_rate=learning_rate)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch[0])


def digits() -> list[Tensor]:
    found = load_digits()
    return [torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)]


def source_code(sequences: int = 2048, context: int = 32) -> list[Tensor]:
    text = standard_library(sequences * context + 1).long()
    return [torch.stack([text[i * context : (i + 1) * context + 1] for i in range(sequences)])]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and when it is done."""

    name: str
    make: Callable[[float], L.LightningModule]
    load: Callable[[], list[Tensor]]
    goal: float
    window: float  # examples
    sizes: tuple[int, ...]
    rate: float  # where the search begins, for the smallest size
    grid: float  # factor between neighbouring rates
    tuning_seeds: tuple[int, ...]
    policies: tuple[str, ...]  # out of ADAPTIVE
    most_examples: int
    data: list[list[Tensor]] = field(default_factory=list)

    def rate_at(self, index: int) -> float:
        return float(f"{self.rate * self.grid**index:.4g}")

    def tensors(self) -> list[Tensor]:
        if not self.data:
            self.data.append(self.load())
        return self.data[0]


TASKS = {
    "digits": Task(
        name="digits",
        make=DigitsMLP,
        load=digits,
        goal=0.01,
        window=900,
        sizes=(16, 32, 64, 128, 256, 512, 1024),
        rate=0.08,
        grid=2**0.5,
        tuning_seeds=(
            0,
            1,
            7,
            8,
        ),  # the best rates lie at the edge of stability, where two seeds do not tell enough
        policies=(
            "TrackNoiseScale()",
            "TrackNoiseScale(2.0)",
            "ExchangeRate(256)",
            "ExchangeRate(1024)",
            'TrackNoiseScale(), learning_rate="sqrt"',
            'ExchangeRate(256), learning_rate="sqrt"',
            WITHIN,
        ),
        most_examples=200_000,
    ),
    "language model": Task(
        name="language model",
        make=SmallLM,
        load=source_code,
        goal=2.0,
        window=1024,
        sizes=(16, 32, 64, 128, 256, 512, 1024),
        rate=0.008,
        grid=2.0,
        tuning_seeds=(0, 1),
        policies=(
            "TrackNoiseScale()",
            "ExchangeRate(256)",
            WITHIN,
            f"{WITHIN}, learning_rate=None",
        ),
        most_examples=200_000,
    ),
}


class Run(NamedTuple):
    """One run; a line of the CSV file. ``path`` holds a period a word: size x steps, and after @
    b_simple where resolved.
    """

    task: str
    kind: str
    size: int
    rate: float
    seed: int
    reached: int
    steps: int
    examples: int
    seconds: float
    path: str = ""


class Smoothed:
    """The debiased exponential average of a loss over a window of examples."""

    def __init__(self, window: float) -> None:
        self.window, self._sum, self._weight = window, 0.0, 0.0

    def update(self, loss: float, examples: int) -> float:
        keep = math.exp(-examples / self.window)
        self._sum, self._weight = (
            keep * self._sum + (1 - keep) * loss,
            keep * self._weight + 1 - keep,
        )
        return self._sum / self._weight


def run_fixed(task: Task, size: int, rate: float, seed: int, most_examples: float) -> Run:
    """A plain loop over shuffled epochs."""
    torch.manual_seed(seed)
    module, data, began = task.make(rate), task.tensors(), time.perf_counter()
    optimizer, order = module.configure_optimizers(), torch.Generator().manual_seed(seed)
    smoothed, steps, examples, reached, going = Smoothed(task.window), 0, 0, False, True
    while going:
        for chosen in torch.randperm(len(data[0]), generator=order).split(size):
            loss = module.training_step([tensor[chosen] for tensor in data], 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps, examples = steps + 1, examples + len(chosen)
            value = smoothed.update(loss.item(), len(chosen))
            reached = value <= task.goal
            going = not reached and math.isfinite(value) and examples < most_examples
            if not going:
                break
    return Run(
        task.name,
        "fixed",
        size,
        rate,
        seed,
        int(reached),
        steps,
        examples,
        round(time.perf_counter() - began, 2),
    )


class Watch(L.Callback):
    """Stops at the goal, and notes sizes and noise scales on the way."""

    def __init__(self, task: Task, most_examples: float, noise: GradientNoiseScale) -> None:
        self.task, self.most_examples, self.noise = task, most_examples, noise
        self.smoothed, self.examples, self.steps, self.reached = Smoothed(task.window), 0, 0, False
        self.periods, self.accumulation = [], 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.examples += len(batch[0])
        self._count(trainer, len(batch[0]) * trainer.accumulate_grad_batches, batch_idx)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        value = self.smoothed.update(loss, len(batch[0]))
        self.reached = value <= self.task.goal
        trainer.should_stop = (
            self.reached or not math.isfinite(value) or self.examples >= self.most_examples
        )

    def _count(self, trainer: L.Trainer, size: int, batch_idx: int) -> None:
        if batch_idx == 0 or trainer.accumulate_grad_batches != self.accumulation:
            self._close()
            self.periods.append([size, 0, None])
            self.accumulation = trainer.accumulate_grad_batches
        self.periods[-1][1] += trainer.global_step - self.steps
        self.steps = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def _close(self) -> None:
        if self.periods:
            estimate = self.noise.estimate()
            self.periods[-1][2] = estimate.noise_scale if estimate else None

    def path(self) -> str:
        return " ".join(
            f"{size}x{steps}" + (f"@{b:.4g}" if b else "") for size, steps, b in self.periods
        )


def run_adaptive(task: Task, kind: str, rate: float, seed: int, most_examples: float) -> Run:
    """Lightning's Trainer with the flag; the batch size changes between epochs."""
    torch.manual_seed(seed)
    module, began = task.make(rate), time.perf_counter()
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*task.tensors()), batch_size=START, shuffle=True, generator=order
    )
    noise = GradientNoiseScale(adaptive_batch_size=ADAPTIVE[kind]())
    watch = Watch(task, most_examples, noise)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=10_000,
        callbacks=[watch, noise],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.print = lambda *_, **__: None  # hundreds of verdicts
    trainer.fit(module, loader)
    seconds = round(time.perf_counter() - began, 2)
    return Run(
        task.name,
        kind,
        START,
        rate,
        seed,
        int(watch.reached),
        trainer.global_step,
        watch.examples,
        seconds,
        watch.path(),
    )


class Book:
    """The runs done, in a CSV file that grows by a line a run."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path, self.deadline, self.runs = path, deadline, {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    run = Run(
                        line["task"],
                        line["kind"],
                        int(line["size"]),
                        float(line["rate"]),
                        *(int(line[name]) for name in ("seed", "reached", "steps", "examples")),
                        float(line["seconds"]),
                        line["path"],
                    )
                    self.runs[run[:5]] = run

    def run(
        self, task: Task, kind: str, size: int, rate: float, seed: int, most_examples: float
    ) -> Run:
        """The run from the book, or a new one.

        Raises:
            TimeoutError: the time is used up.
        """
        key = (task.name, kind, size, rate, seed)
        if key not in self.runs:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            work = run_fixed(task, size, rate, seed, most_examples) if kind == "fixed" else None
            self._add(work or run_adaptive(task, kind, rate, seed, most_examples))
        return self.runs[key]

    def _add(self, run: Run) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([Run._fields, run] if new else [run])
        self.runs[run[:5]] = run
        print(*run[:9], flush=True)


def score(runs: Sequence[Run]) -> float:
    """Mean of steps x examples; infinite where a run did not reach the goal."""
    return statistics.fmean(r.steps * r.examples if r.reached else math.inf for r in runs)


def tune(book: Book, task: Task, kind: str, size: int, place: int) -> int:
    """The best place on the task's grid of rates, searched from ``place`` until both its neighbours
    are worse.
    """
    scores: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in scores:
            done = [
                r
                for r in book.runs.values()
                if r[:3] == (task.name, kind, size) and r.reached and r.seed in task.tuning_seeds
            ]
            limit = min([task.most_examples, *(GIVE_UP * r.examples for r in done)])
            scores[index] = score(
                [
                    book.run(task, kind, size, task.rate_at(index), seed, limit)
                    for seed in task.tuning_seeds
                ]
            )
        return scores[index]

    for _ in range(20):
        around = {index: at(index) for index in (place, place + 1, place - 1)}
        winner = min(around, key=around.__getitem__)
        if math.isinf(around[winner]):
            place -= 1  # none reached the goal: diverged, as a rule, so look lower
        elif winner == place:
            break
        else:
            place = winner
    return place


def work(book: Book, task: Task, kinds: Sequence[str]) -> None:
    """All runs of a task: for every row the search of the rate, then five fresh seeds."""
    place = 0
    rows = [("fixed", size) for size in task.sizes if "fixed" in kinds] + [
        (kind, START) for kind in task.policies if kind in kinds
    ]
    for kind, size in rows:
        place = tune(book, task, kind, size, place if kind == "fixed" else 0)
        for seed in SEEDS:
            book.run(task, kind, size, task.rate_at(place), seed, task.most_examples)


def main(argv: Sequence[str] | None = None) -> Book:
    """Does what the arguments ask for and returns the book."""
    parser = argparse.ArgumentParser(
        description="Steps and examples to a goal, fixed sizes and adaptive."
    )
    parser.add_argument("--task", choices=TASKS, action="append", help="all, where left out")
    parser.add_argument(
        "--kind", choices=["fixed", *ADAPTIVE], action="append", help="all, where left out"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begins no run after so many minutes"
    )
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/adaptive.csv"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    book = Book(args.csv, time.monotonic() + 60 * args.minutes)
    try:
        for name in args.task or TASKS:
            work(book, TASKS[name], args.kind or ["fixed", *ADAPTIVE])
    except TimeoutError:
        print("time is up; run the same command again to go on")
    return book


if __name__ == "__main__":
    main()
