"""Which parameters of a model are covered, by all that has been found out since it was bound."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import Parameter

from lightning_noise.probes.examples.coverage import (
    Cause,
    Coverage,
    Group,
    Missing,
    by_cause,
)
from lightning_noise.probes.examples.errors import CoverageError, UnsupportedModelError
from lightning_noise.probes.examples.inventory import Inventory, take_inventory
from lightning_noise.probes.examples.refusals import coupled_examples
from lightning_noise.probes.norms import chunk_norms, sum_of_squares


class Scope:
    """What of a model is seen.

    Args:
        module: the model.
        min_coverage: least share of the parameters, and of |ḡ|², that must be covered.

    Attributes:
        coverage: ``None`` before the first :meth:`survey`.
        parameters: the watched ones that are trained.
        covered: those of them whose per-example gradients are seen.
    """

    def __init__(self, module: nn.Module, min_coverage: float) -> None:
        self.coverage: Coverage | None = None
        self.parameters: dict[str, Parameter] = {}
        self.covered: dict[str, Parameter] = {}
        self._module = module
        self._min_coverage = min_coverage
        self._uncovered: dict[str, Cause] = {}
        self._dropped: dict[str, Cause] = {}  # those of them that were found in a step
        self._coupled: UnsupportedModelError | None = None
        self._lacking: CoverageError | None = None

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why the model cannot be measured as things stand."""
        return self._coupled or self._lacking

    def survey(self, parameters: Mapping[str, Parameter]) -> Inventory:
        """Looks through the model's layers; what was found out in earlier steps stays."""
        known = self.parameters.keys() == parameters.keys()
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        inventory = take_inventory(self._module, trained, self._dropped)
        self.parameters = trained
        self._uncovered = inventory.uncovered
        self._state(self._grad_sq if known else None)
        self._coupled = coupled_examples(self._module)
        return inventory

    def drop(self, causes: Mapping[str, Cause]) -> list[Group]:
        """Leaves parameters out from now on, which it returns by cause."""
        self._dropped |= causes
        self._uncovered = {**self._uncovered, **causes}
        self._state(self._grad_sq)
        return by_cause(self._missing(causes))

    def weigh(self) -> None:
        """Measures the covered share of |ḡ|² from ``.grad``. Waits for the device."""
        seen = _squared_norm(self.covered)
        whole = seen + _squared_norm({name: self.parameters[name] for name in self._uncovered})
        self._state(seen / whole if whole > 0 else None)

    @property
    def _grad_sq(self) -> float | None:
        return None if self.coverage is None else self.coverage.grad_sq

    def _state(self, grad_sq: float | None) -> None:
        """States what is covered, and whether that is enough."""
        missing = self._missing(self._uncovered)
        seen = self.parameters.keys() - self._uncovered.keys()
        self.covered = {name: p for name, p in self.parameters.items() if name in seen}
        whole = sum(parameter.numel() for parameter in self.parameters.values())
        share = 1 - sum(part.numbers for part in missing) / max(1, whole)
        self.coverage = Coverage(share, grad_sq, tuple(missing))
        some = len(missing) < len(self.parameters)
        enough = some and self.coverage.least >= self._min_coverage
        self._lacking = None if enough else CoverageError(self.coverage, self._min_coverage)

    def _missing(self, causes: Mapping[str, Cause]) -> list[Missing]:
        sizes = self.parameters
        return [Missing(name, sizes[name].numel(), cause) for name, cause in causes.items()]


def _squared_norm(parameters: Mapping[str, Parameter]) -> float:
    grads = [p.grad for p in parameters.values() if p.grad is not None]
    device = grads[0].device if grads else torch.device("cpu")
    norms = [norm for grad in grads for norm in chunk_norms(grad)]
    return float(sum_of_squares(norms, device))
