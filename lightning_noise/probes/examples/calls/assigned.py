"""Where the examples lie in a tensor after values were assigned to a part of it."""

from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.facts import Fact
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.indexing import indexed
from lightning_noise.probes.examples.calls.seen import Seen


class Assigned:
    """``target[index] = value``.

    Args:
        seen: the call.
    """

    def __init__(self, seen: Seen) -> None:
        self.target: Tensor = seen.args[0]
        self.index: Any = seen.args[1]
        self.value: Any = seen.args[2]
        self.fact = seen.fact(self.target)
        self._facts = seen.facts
        self.picked = torch.Size(self.target.detach()[self.index].shape)

    def fold_of(self, fold: Fold) -> Fold | None:
        """Where they lie in the part, if they lie so in the target."""
        facts: list[tuple[Tensor, Fact]] = [(self.target, fold), *self._facts]
        part = torch.empty(self.picked, device="meta")
        given = (self.target, self.index)
        found = indexed(Seen("getitem", Tensor.__getitem__, given, {}, facts), part)
        return found if found is not None and found.holds(self.picked) else None

    def with_examples(self, value: Fold) -> Fold | None:
        """Where the examples lie in the target, if the value holds them; ``None``: unknown."""
        wanted = value.widened(self.value.shape, self.picked)
        if wanted is None:
            return None
        found: list[Fold] = []
        for fold in self._candidates(value.examples):
            if self.fold_of(fold) == wanted:
                found.append(fold)
        places = {fold.dim for fold in found}
        return found[0] if len(places) == 1 else None

    def _candidates(self, examples: int) -> list[Fold]:
        if isinstance(self.fact, Fold):
            return [self.fact]
        found: list[Fold] = []
        for dim, size in enumerate(self.target.shape):
            if size and size % examples == 0:
                found += [Fold(examples, dim, size // examples), Fold(examples, dim)]
        return found
