"""What single examples need in memory, where layers are hooked and where calls are watched.

    python benchmarks/calls_memory.py [--cases lstm,resnet]

Counted are the bytes of tensors, not of the process, in the cases of ``calls_cost.py``: what is
held after the forward pass, and the peak in the whole step. A measured step is compared with a
plain one, and both also with the blocks of the model checkpointed.
"""

import argparse
import csv
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from benchmarks.calls_cost import TINY, WHOLE, Case, Training

RESULTS = Path(__file__).parent / "results" / "calls_memory.csv"


def with_checkpoints(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The model, whose blocks are computed again in the backward pass."""
    for module in model.modules():
        if isinstance(module, kind):
            again = functools.partial(checkpoint, module.forward, use_reentrant=False)
            module.forward = again  # type: ignore[method-assign]
    return model


class Storages(TorchDispatchMode):
    """All storages that operations have made and that are still there, and their peak in bytes.

    Args:
        given: tensors whose storages were there before.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._given = {x.untyped_storage()._cdata for x in given}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                if storage._cdata in self._given:
                    continue
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.held)
        return out

    @property
    def held(self) -> int:
        """Bytes of those that are still there."""
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        return sum(size for _, size in self._made.values())


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


def bytes_of_step(case: Case, every: int | None, *, checkpointed: bool) -> tuple[int, int]:
    """Bytes held after the forward pass, and the peak, in a step after the checks."""
    if checkpointed:
        case = case._replace(build=lambda build=case.build: with_checkpoints(build(), case.blocks))
    training = Training(case, every)
    training.settle(every)
    training.optimizer.zero_grad(set_to_none=True)
    held: list[int] = []
    module = training.module
    given = [*module.parameters(), *module.buffers(), training.inputs, training.targets]
    with Storages(given) as storages:
        training.step(between=lambda: held.append(storages.held))
    return held[0], storages.peak


def measure_memory(chosen: Iterable[Case]) -> Iterator[Memory]:
    """Each case, without and with checkpointing."""
    for case in chosen:
        for checkpointed in (False, True):
            plain = bytes_of_step(case, None, checkpointed=checkpointed)
            measured = bytes_of_step(case, 1, checkpointed=checkpointed)
            yield Memory(
                case.name,
                checkpointed,
                batch_bytes(case),
                plain[0],
                measured[0],
                plain[1],
                measured[1],
            )


def batch_bytes(case: Case) -> int:
    """Bytes of the inputs of the first block."""
    found: list[int] = []

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].numel() * args[0].element_size())

    training = Training(case, None)
    for module in training.module.modules():
        if isinstance(module, case.blocks):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        training.forward()
    return found[0]


def memory_table(rows: Sequence[Memory]) -> str:
    """The bytes in Markdown."""
    lines = [
        "| case | checkpointed | held after forward, MB | added | in batches | peak, MB | added |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        added, above = row.held_measured - row.held, row.peak_measured - row.peak
        cells = [
            row.case,
            "yes" if row.checkpointed else "no",
            f"{row.held / 1e6:.3f}",
            f"{added / 1e6:.3f}",
            f"{added / row.batch:.2f}",
            f"{row.peak / 1e6:.3f}",
            f"{above / 1e6:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_raw(path: Path, rows: Sequence[Memory]) -> None:
    """A line for each case, without and with checkpointing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Memory._fields)
        writer.writerows(rows)


def main(argv: Sequence[str] | None = None) -> list[Memory]:
    """Measures, writes the bytes, prints the table and returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(WHOLE))
    parser.add_argument("--tiny", action="store_true", help="small models, for the tests")
    parser.add_argument("--output", type=Path, default=RESULTS, help="CSV")
    args = parser.parse_args(argv)
    known = TINY if args.tiny else WHOLE
    rows = list(measure_memory(known[key] for key in args.cases))
    write_raw(args.output, rows)
    print(memory_table(rows))
    return rows


if __name__ == "__main__":
    main()
