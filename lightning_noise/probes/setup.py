"""The facts of a run that decide how its gradients can be seen.

Whoever drives the measurement states them once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The facts of a run.

    Args:
        ranks: replicas that train on different examples and whose gradients are averaged.
        rank: of this process among them.
        reduce: sums a tensor over the ranks; ``None`` for one process.
        accumulation: least number of micro-batches per optimizer step on one rank; 0 where it is
            not known.
        most_accumulation: greatest number of them where a schedule changes it; 0 where none does.
        manual: whether the training loop steps the optimizer itself, so that the number of
            micro-batches per step is not known beforehand.
        tap: shows DDP's gradient buckets before they are reduced; ``None`` where the strategy does
            not.
        seed: of the random signs of sketches.
        forward_context: what a forward pass must run in (autocast).
    """

    ranks: int = 1
    rank: int = 0
    reduce: Reduce | None = None
    accumulation: int = 1
    most_accumulation: int = 0
    manual: bool = False
    tap: Any = None
    seed: int = 0
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext
