"""Training steps in two real processes, in plain torch, timed in rounds on rank 0.

Every process trains a transformer on one micro-batch per step. In every round the variants run in
random order, the same on both ranks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from benchmarks.harness.models import EncoderLM, random_tokens
from benchmarks.harness.processes import in_processes, settings
from benchmarks.harness.rounds import Rounds, Times, Visit, one_round, visit
from benchmarks.harness.spec import Done, option
from lightning_noise import Monitor
from lightning_noise.hosts.distributed import sum_over_ranks
from lightning_noise.probes.probe import Probe

SIZES = {
    "whole": {"width": 384, "layers": 6, "context": 64},
    "tiny": {"width": 32, "layers": 1, "context": 8},
}
LOCAL_SIZE, FLUSH_EVERY = 4, 10


def model() -> EncoderLM:
    """The transformer, from a fixed seed."""
    torch.manual_seed(0)
    return EncoderLM(**SIZES[settings()["size"]])


class Training:
    """A wrapped model, trained on its one batch.

    Args:
        wrapped: :func:`model`, as a variant wraps it.
        monitor: where steps are measured.
        after_backward: what a variant does besides.
        timed: the steps of a visit that are timed, by their weight in the mean step.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        *,
        monitor: Monitor | None = None,
        after_backward: Callable[[], object] = lambda: None,
        timed: tuple[float, ...] = (1.0,),
    ) -> None:
        self.model, self.monitor, self.timed = wrapped, monitor, timed
        self.optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-4)
        self.tokens = random_tokens(
            LOCAL_SIZE, SIZES[settings()["size"]]["context"], seed=dist.get_rank()
        )
        self.steps = 0
        self._after_backward = after_backward
        if monitor is not None:
            monitor.watch(dict(wrapped.named_parameters()))

    def visit(self) -> Times:
        """Times of a step, after an untimed one; both ranks begin together."""
        return visit(self.step, self.timed, ready=dist.barrier)

    def step(self) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        if self.monitor is None:
            self.backward()
        else:
            with self.monitor.micro_batch(size=len(self.tokens)):
                self.backward()
            self.monitor.step()
        self._after_backward()
        self.optimizer.step()
        self.steps += 1
        if self.monitor is not None and self.steps % FLUSH_EVERY == 0:
            self.monitor.flush()

    def backward(self) -> None:
        """Leaves the gradients."""
        inputs, targets = self.tokens[:, :-1], self.tokens[:, 1:]
        F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten()).backward()


def monitor_of(probe: Probe | str = "auto", **given: Any) -> Monitor:
    """A monitor over both ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return Monitor(probe, replicas=world, rank=rank, reduce=sum_over_ranks, **given)


def all_rounds(trainings: Mapping[str, Training]) -> list[Visit]:
    """What each process does: the rounds that it was given."""
    visits = {name: training.visit for name, training in trainings.items()}
    rows = []
    for number in settings()["rounds"]:
        rows += one_round(number, visits)
    return rows


@dataclass(frozen=True, kw_only=True)
class Options(Rounds):
    at_once: int = option(10, "of these, rounds in one start of the processes", extends=True)


def measuring(target: str) -> Callable[[Options, Done], Iterator[list[Visit]]]:
    """Measures the missing rounds, so many in one start of two processes that call
    ``module:function``.
    """

    def measure(options: Options, done: Done) -> Iterator[list[Visit]]:
        missing = [number for number in range(options.rounds) if (number,) not in done]
        for first in range(0, len(missing), options.at_once):
            rounds = missing[first : first + options.at_once]
            yield in_processes(target, 2, {"size": options.size, "rounds": rounds})[0]

    return measure
