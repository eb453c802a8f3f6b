"""What single examples need in memory, where layers are hooked and where calls are watched.

Counted are the bytes of tensors, not of the process, in the cases of ``calls_cost``: what is held
after the forward pass, and the peak in the whole step. A measured step is compared with a plain
one, and both also with the blocks of the model checkpointed. Nothing is timed, so the figures are
the same on every machine.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.cost.calls_cost import CASES, SIZES, prepared
from benchmarks.cost.norm_methods import Case, Training
from benchmarks.harness.models import Block, Residual
from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown
from testing.storages import Storages

BLOCKS: Mapping[str, type[nn.Module]] = {
    "transformer": Block,
    "by-hand": Block,
    "resnet": Residual,
    "encoder": nn.TransformerEncoderLayer,
    "lstm": nn.LSTM,
}


def with_checkpoints(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The model, whose blocks are computed again in the backward pass."""
    for module in model.modules():
        if isinstance(module, kind):
            again = functools.partial(checkpoint, module.forward, use_reentrant=False)
            # a method of this one module, as wrappers for checkpointing do it
            module.forward = again  # type: ignore[method-assign]
    return model


def checkpointing(case: Case, kind: type[nn.Module]) -> Case:
    """The case with such a model."""
    return case._replace(build=lambda: with_checkpoints(case.build(), kind))


class Memory(NamedTuple):
    """Bytes of tensors in one step.

    Args:
        case: name.
        checkpointed: whether blocks are computed again in the backward pass.
        batch: bytes of the inputs of one block.
        held: after the forward pass, in a plain step; ``held_measured`` in a measured one.
        peak: in the whole step, likewise.
    """

    case: str
    checkpointed: bool
    batch: int
    held: int
    held_measured: int
    peak: int
    peak_measured: int


def bytes_of_step(case: Case, every: int | None) -> tuple[int, int]:
    """Bytes held after the forward pass, and the peak, in a step after the checks."""
    method = prepared(case, every)
    training = method.training
    training.optimizer.zero_grad(set_to_none=True)
    held: list[int] = []
    module = training.module
    given = [*module.parameters(), *module.buffers(), training.inputs, training.targets]
    with method.watching(), Storages(given) as storages:
        training.after_forward = lambda: held.append(storages.held)
        method.step()
    return held[0], storages.peak


def batch_bytes(case: Case, kind: type[nn.Module]) -> int:
    """Bytes of the inputs of the first block."""
    found: list[int] = []

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].numel() * args[0].element_size())

    training = Training.of(case)
    for module in training.module.modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        training.loss()
    return found[0]


def measure(options: "Options", done: Done) -> Iterator[list[Memory]]:
    """Each case, without and with checkpointing."""
    for key in options.cases:
        case, kind = SIZES[options.size][key], BLOCKS[key]
        batch = batch_bytes(case, kind)
        for built, checkpointed in ((case, False), (checkpointing(case, kind), True)):
            if (case.name, checkpointed) not in done:
                held, peak = zip(bytes_of_step(built, None), bytes_of_step(built, 1), strict=True)
                yield [Memory(case.name, checkpointed, batch, *held, *peak)]


def table(rows: Sequence[Memory]) -> str:
    """Megabytes, and what measuring adds."""
    lines = []
    for row in rows:
        added, above = row.held_measured - row.held, row.peak_measured - row.peak
        checkpointed = "yes" if row.checkpointed else "no"
        held = (f"{row.held / 1e6:.3f}", f"{added / 1e6:.3f}", f"{added / row.batch:.2f}")
        lines.append((row.case, checkpointed, *held, f"{row.peak / 1e6:.3f}", f"{above / 1e6:.3f}"))
    head = ("case", "checkpointed", "held after forward, MB", "added", "in batches")
    return markdown((*head, "peak, MB", "added"), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    cases: tuple[str, ...] = option(CASES, "to count", extends=True, choices=CASES)
    size: str = option("whole", "of the models", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="calls_memory",
    question="What do single examples need in memory, by hooks and by watched calls?",
    about=__doc__,
    row=Memory,
    key=("case", "checkpointed"),
    measure=measure,
    options=Options(),
    quick=Options(size="tiny"),
    tables={"calls memory": table},
    minutes=1,
)
