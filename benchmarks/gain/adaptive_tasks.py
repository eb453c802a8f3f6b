"""What is trained to a goal, and the policies that are compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import lightning as L
import torch
from torch import Tensor, nn

from benchmarks.harness.digits import digits
from benchmarks.harness.examples import CharLM, standard_library
from lightning_noise import AdaptiveBatchSize, ExchangeRate, TrackNoiseScale

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


def flat_digits() -> list[Tensor]:
    images, labels = digits()
    return [images.flatten(1), labels]


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
    rate: float  # where the search begins, for the smallest size
    grid: float  # factor between neighbouring rates
    tuning_seeds: tuple[int, ...]
    policies: tuple[str, ...]  # out of ADAPTIVE
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    most_examples: int = 200_000
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
        load=flat_digits,
        goal=0.01,
        window=900,
        rate=0.08,
        grid=2**0.5,
        # the best rates lie at the edge of stability, where two seeds do not say enough
        tuning_seeds=(0, 1, 7, 8),
        policies=(
            "TrackNoiseScale()",
            "TrackNoiseScale(2.0)",
            "ExchangeRate(256)",
            "ExchangeRate(1024)",
            'TrackNoiseScale(), learning_rate="sqrt"',
            'ExchangeRate(256), learning_rate="sqrt"',
            WITHIN,
        ),
    ),
    "language model": Task(
        name="language model",
        make=SmallLM,
        load=source_code,
        goal=2.0,
        window=1024,
        rate=0.008,
        grid=2.0,
        tuning_seeds=(0, 1),
        policies=(
            "TrackNoiseScale()",
            "ExchangeRate(256)",
            WITHIN,
            f"{WITHIN}, learning_rate=None",
        ),
    ),
}


TINY = replace(
    TASKS["digits"],
    goal=1.0,
    sizes=(64,),
    tuning_seeds=(0,),
    policies=("TrackNoiseScale()",),
    most_examples=12_000,
)
