"""Which arguments of a call are derived, and which hold the batch."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Operand
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import NotPerExample


def derived_among(seen: Seen, given: Mapping[str, Any]) -> dict[str, Operand]:
    """Those of the arguments that are derived, by name.

    Raises:
        NotPerExample: the call has other derived arguments, too.
    """
    found: dict[str, Operand] = {}
    for own, tensor in given.items():
        fact = seen.fact(tensor)
        if isinstance(fact, Derived):
            found[own] = Operand(tensor.detach(), fact)
    if len(found) < len(seen.derived):
        raise NotPerExample(f"it is an argument of {seen.name} that has no rule")
    return found


def batch_of(seen: Seen, tensor: Any) -> Fold:
    """Where the examples lie in an argument.

    Raises:
        NotPerExample: they do not.
    """
    fact = seen.fact(tensor)
    if not isinstance(fact, Fold):
        raise NotPerExample(f"the input of {seen.name} does not hold the examples")
    return fact


def plain(fold: Fold, shape: torch.Size, name: str) -> None:
    """Requires one row per example.

    Raises:
        NotPerExample: the examples are folded with something else.
    """
    if fold != Fold(fold.examples) or shape[0] != fold.examples:
        raise NotPerExample(f"{name} was called with the examples folded into another dimension")


def by_rows(fold: Fold, name: str) -> None:
    """Requires that the examples lie along dimension 0, one or several rows each.

    Raises:
        NotPerExample: they lie elsewhere.
    """
    if fold.dim != 0:
        raise NotPerExample(f"{name} was called with the examples along another dimension than 0")
