"""What a run should have measured: every group's gradient recomputed in one process, one at a time,
in fp64.
"""

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from lightning_noise import GradientNoiseScale, Key, Moments
from lightning_noise.core.moments import from_contributions
from lightning_noise.core.reasons import Reason
from lightning_noise.measure.readings import Reading
from lightning_noise.measure.session import Session
from lightning_noise.probes.sharding import own_piece, plain_name


def session(noise: GradientNoiseScale) -> Session:
    """The measurement: what was skipped and which probe was chosen can be seen there alone."""
    return noise.session


def skipped(noise: GradientNoiseScale, optimizer: str = "") -> Counter[Reason]:
    """Steps of one optimizer that could not be used, by reason."""
    return session(noise).readings.tallies[optimizer].skipped


def probes(noise: GradientNoiseScale) -> list[str]:
    """The name of the probe of every optimizer."""
    return [track.probe.name for track in session(noise).tracks]


class Step(NamedTuple):
    """One optimizer step as it was trained on one rank.

    Args:
        weights: state of the module that the step's gradients belong to.
        trained: names of the parameters that are to be measured.
        batches: its micro-batches, after the trainer has cast them.
        finite: whether the optimizer got a finite gradient.
    """

    weights: dict[str, Tensor]
    trained: frozenset[str]
    batches: list[Any]
    finite: bool = True


class Recorder(L.Callback):
    """Keeps what every optimizer step trained on, and the moments that ``noise`` made of it; stands
    after ``noise``.

    With several optimizers the moments are those of ``optimizer``, and the steps are not to be
    used.
    """

    def __init__(self, noise: GradientNoiseScale, key: Key = Key(), optimizer: str = "") -> None:
        self.noise, self.key, self.optimizer = noise, key, optimizer
        self.steps: list[Step] = []
        self.moments: list[Moments] = []
        self._batches: list[Any] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        session(self.noise).observe(self._take)

    def _take(self, reading: Reading) -> None:
        if reading.key == self.key._replace(optimizer=self.optimizer):
            self.moments.append(reading.moments)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._batches:
            self._before = whole_state(trainer, pl_module)
            updated = {
                id(p)
                for optimizer in trainer.optimizers
                for group in optimizer.param_groups
                for p in group["params"]
            }
            named = pl_module.named_parameters()
            self._trained = frozenset(
                plain(name) for name, p in named if p.requires_grad and id(p) in updated
            )
            self._at = trainer.global_step
        self._batches.append(copy.deepcopy(batch))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        grads = [own_piece(p.grad) for p in pl_module.parameters() if p.grad is not None]
        self._finite = all(
            bool((g.coalesce().values() if g.is_sparse else g).isfinite().all()) for g in grads
        )

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step > self._at:
            self.steps.append(Step(self._before, self._trained, self._batches, self._finite))
            self._batches = []


def plain(name: str) -> str:
    """The name of a parameter without what torch.compile and FSDP put into it."""
    return plain_name(name.replace("_orig_mod.", ""))


def whole_state(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers by plain name, gathered from all ranks where they are sharded."""
    outermost, gathered = trainer.strategy.model, contextlib.nullcontext()
    if isinstance(outermost, FullyShardedDataParallel):
        gathered = FullyShardedDataParallel.summon_full_params(outermost, writeback=False)
    with gathered:
        parameters = module.named_parameters(remove_duplicate=False)
        named = [*parameters, *module.named_buffers(remove_duplicate=False)]
        return {plain(name): whole(tensor).detach().clone() for name, tensor in named}


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradient(module: nn.Module, names: frozenset[str], batch: Any) -> Tensor:
    """fp64 gradient of ``module.loss``, flat; dense, whatever the layers hand out."""
    module.zero_grad(set_to_none=True)
    module.loss(batch).backward()
    parts = []
    for name, parameter in module.named_parameters():
        if name in names:
            found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parts.append((found.to_dense() if found.is_sparse else found).flatten())
    return torch.cat(parts)


def groups(probe: str, batches: Sequence[Any]) -> Iterator[tuple[list[Any], float]]:
    """The groups of one rank's step as a probe sees them, each a list of batches to average, with
    its effective size.
    """
    sizes = [len(batch[0]) for batch in batches]
    if probe == "ranks":
        yield list(batches), 1 / sum(1 / len(batches) ** 2 / size for size in sizes)
    elif probe == "examples":
        yield from (
            ([[t[i : i + 1] for t in batch]], 1)
            for batch, size in zip(batches, sizes, strict=True)
            for i in range(size)
        )
    else:
        yield from (([batch], size) for batch, size in zip(batches, sizes, strict=True))


def expected(module: nn.Module, ranks: Sequence[Step], probe: str = "micro_batches") -> Moments:
    """Moments of one optimizer step of all ranks.

    ``module`` has a method ``loss`` that is the mean over a batch, a sequence of tensors with the
    examples along dimension 0.
    """
    module = copy.deepcopy(module).double()
    module.load_state_dict(ranks[0].weights)
    found, shares, sizes = [], [], []
    for step in ranks:
        per_rank = 1 / len(ranks)
        for members, size in groups(probe, step.batches):
            cast = [
                [t.double() if t.is_floating_point() else t for t in batch] for batch in members
            ]
            found.append(
                torch.stack([gradient(module, step.trained, batch) for batch in cast]).mean(dim=0)
            )
            sizes.append(size)
        whole = [len(batch[0]) for batch in step.batches]
        if (
            probe == "examples"
        ):  # a micro-batch weighs 1/K whatever its size, an example in it 1/size of that
            shares += [per_rank / len(whole) / size for size in whole for _ in range(size)]
        else:
            shares += [per_rank] if probe == "ranks" else [per_rank / len(whole)] * len(whole)
    mean = sum(share * g for share, g in zip(shares, found, strict=True))
    return from_contributions(
        [float((share * g) @ (share * g)) for share, g in zip(shares, found, strict=True)],
        shares,
        sizes,
        float(mean @ mean),
    )


class Errors(NamedTuple):
    """Greatest relative errors over the steps of a run."""

    q_small: float
    q_big: float
    steps: int


def errors(
    module: nn.Module,
    moments: Sequence[Moments],
    ranks: Sequence[Sequence[Step]],
    probe: str = "micro_batches",
) -> Errors:
    """Measured moments against :func:`expected`, step by step; ``ranks`` holds each rank's steps.

    Raises:
        ValueError: the measured steps are not those with a finite gradient, or batch sizes differ.
    """
    steps = [step for step in zip(*ranks, strict=True) if all(part.finite for part in step)]
    return differences(moments, [expected(module, of_all_ranks, probe) for of_all_ranks in steps])


def differences(moments: Sequence[Moments], wanted: Sequence[Moments]) -> Errors:
    """Measured moments against those that are right, step by step.

    Raises:
        ValueError: another number of steps was measured, or batch sizes differ.
    """
    if len(wanted) != len(moments):
        raise ValueError(
            f"{len(moments)} steps were measured where {len(wanted)} had a finite gradient."
        )
    worst = [0.0, 0.0]
    for got, want in zip(moments, wanted, strict=True):
        if not all(math.isclose(got[at], want[at], rel_tol=1e-12) for at in (2, 3)):
            raise ValueError(f"batch sizes differ: {got} where {want} is right.")
        for at in (0, 1):
            worst[at] = max(worst[at], abs(got[at] / want[at] - 1))
    return Errors(*worst, len(moments))
