"""One fit of an entry with the callback, or without it, and what it leaves to compare."""

import hashlib
import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.right.zoo.entry import Batch, Entry, Trained
from lightning_noise import GradientNoiseScale, Key, Moments
from lightning_noise.core.reasons import CannotMeasureError
from lightning_noise.hosts.lightning.reword import NO_EXAMPLES
from lightning_noise.measure.readings import Reading
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.examples.coverage import Coverage
from lightning_noise.probes.examples.errors import UnsupportedModelError

SEED = "PL_GLOBAL_SEED"  # where Lightning keeps it


class Refusal(NamedTuple):
    """Why nothing was measured.

    Args:
        code: of the reason.
        text: the reason in words, without the suggested fix.
        passes: backward passes begun before.
    """

    code: str
    text: str
    passes: int


class Fit(NamedTuple):
    """What a fit leaves.

    Args:
        probe: that was used; "" where nothing was measured.
        moments: one record per measured step.
        coverage: of the probe for single examples, where it was asked.
        refusal: why nothing was measured; ``None`` where something was.
        digests: of all gradients, one per optimizer step.
        state: digest of the weights and of the random state at the end.
    """

    probe: str
    moments: tuple[Moments, ...]
    coverage: Coverage | None
    refusal: Refusal | None
    digests: tuple[str, ...]
    state: str


class Recorder(L.Callback):
    """Keeps digests of the gradients of every step, and the moments that ``noise`` made of it."""

    def __init__(self, noise: GradientNoiseScale | None) -> None:
        self.noise = noise
        self.moments: list[Moments] = []
        self.digests: list[str] = []
        self.passes = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.noise is not None:
            self.noise.session.observe(self._take)

    def _take(self, reading: Reading) -> None:
        if reading.key == Key():
            self.moments.append(reading.moments)

    def on_before_backward(self, *_: Any) -> None:
        self.passes += 1

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        self.digests.append(digest([p.grad for p in pl_module.parameters()]))


def digest(tensors: Sequence[Tensor | None]) -> str:
    """The same for tensors that are equal to the last bit."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(b"none" if tensor is None else as_bytes(tensor))
    return found.hexdigest()[:16]


def as_bytes(tensor: Tensor) -> bytes:
    """The bits of a tensor, in any layout and precision."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@contextmanager
def silence() -> Iterator[None]:
    """Without verdicts, advice and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def own_seed(name: str) -> Iterator[None]:
    """The random directions of sketches follow Lightning's seed: with one seed for all, the errors
    of all models would have much in common.
    """
    before = os.environ.get(SEED)
    os.environ[SEED] = str(zlib.crc32(name.encode()))
    try:
        yield
    finally:
        del os.environ[SEED]
        if before is not None:
            os.environ[SEED] = before


def fit(
    entry: Entry,
    batches: Sequence[Batch],
    noise: GradientNoiseScale | None = None,
    *,
    accumulate: int = 1,
    precision: str = "32-true",
) -> Fit:
    """Trains a fresh copy of the entry's model on ``batches`` with a learning rate of 0.

    The loader collates single examples, as users' loaders do, so that ``noise`` can split batches.
    """
    recorder = Recorder(noise)
    module = Trained(entry)
    torch.manual_seed(2)
    refusal = None
    with silence(), own_seed(f"{entry.package}/{entry.name}"):
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            accumulate_grad_batches=accumulate,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[recorder] if noise is None else [noise, recorder],
        )
        try:
            trainer.fit(module, loader_of(batches))
        except MisconfigurationException as error:
            refusal = refused(error, recorder.passes)
    state = digest([*module.state_dict().values(), torch.get_rng_state()])
    digests = tuple(recorder.digests)
    if refusal is not None:
        return Fit("", (), None, refusal, digests, state)
    if noise is None:
        return Fit("", (), None, None, digests, state)
    (track,) = noise.session.tracks
    coverage = track.probe.coverage if isinstance(track.probe, Examples) else None
    if not recorder.moments:
        refusal = Refusal("no_row", why_nothing(noise), recorder.passes)
        return Fit("", (), coverage, refusal, digests, state)
    return Fit(track.probe.name, tuple(recorder.moments), coverage, None, digests, state)


def loader_of(batches: Sequence[Batch]) -> DataLoader[Batch]:
    """Gives the batches again, from their examples."""
    examples = [example for batch in batches for example in zip(*batch, strict=True)]
    # a list serves as a data set, although it is not typed as one
    return DataLoader(examples, batch_size=len(batches[0][0]))  # type: ignore[arg-type]


def why_nothing(noise: GradientNoiseScale) -> str:
    """Why no step of a fit could be used: what ended the measurement, or else the latest reason."""
    for warning in noise.verdict().warnings:
        stopped, _, reason = warning.partition("training goes on. ")
        if reason and "has stopped" in stopped:
            return reason
    (tally,) = noise.session.readings.tallies.values()
    if not tally.skipped:
        return "no step was measured"
    return list(tally.skipped)[-1].text


def refused(error: MisconfigurationException, passes: int) -> Refusal:
    """The reason that concerns single examples, where several are given."""
    cause = error.__context__
    if isinstance(cause, CannotMeasureError):
        concerned = [reason for reason in cause.reasons if reason.code in NO_EXAMPLES]
        reason = [*concerned, *cause.reasons][0]
        return Refusal(reason.code, reason.text, passes)
    if isinstance(cause, UnsupportedModelError):
        return Refusal(type(cause).__name__, cause.cause, passes)
    return Refusal(type(error).__name__, str(error), passes)


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm in train mode ties the examples together."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return any(isinstance(part, kinds) and part.training for part in model.modules())
