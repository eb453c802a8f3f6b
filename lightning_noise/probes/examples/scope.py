"""Which parameters of a model are covered, by all that is known since it was bound."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.probes.examples.coverage import (
    Cause,
    Coverage,
    Group,
    Missing,
    by_cause,
)
from lightning_noise.probes.examples.errors import CoverageError, UnsupportedModelError
from lightning_noise.probes.examples.inventory import (
    UNSEEN_BY_CALLS,
    Inventory,
    take_inventory,
)
from lightning_noise.probes.examples.refusals import compiled_parts, coupled_examples
from lightning_noise.probes.norms import chunk_norms, sum_of_squares
from lightning_noise.probes.trained import trained


class Scope:
    """The part of a model that is seen.

    Args:
        module: the model.
        min_coverage: least share of the parameters, and of |ḡ|², that must be covered.
        eager: whether passes run without ``torch.compile``.
        calls: whether calls of functions are watched where no layer covers a parameter.

    Attributes:
        coverage: ``None`` before the first :meth:`survey`.
        parameters: the watched parameters that are trained.
        covered: those whose per-example gradients are seen.
    """

    def __init__(
        self,
        module: nn.Module,
        min_coverage: float,
        *,
        calls: bool = True,
        eager: bool = False,
    ) -> None:
        self.coverage: Coverage | None = None
        self.parameters: dict[str, Parameter] = {}
        self.covered: dict[str, Parameter] = {}
        self._module = module
        self._min_coverage = min_coverage
        self._eager = eager
        self._uncovered: dict[str, Cause] = {}
        self._calls = calls
        self._calls_are_seen = calls
        self._dropped: dict[str, Cause] = {}  # uncovered, as a step has shown
        self._handed: dict[str, Cause] = {}  # left to the watch on calls in a step
        self._by_calls: frozenset[str] = frozenset()
        self._coupled: UnsupportedModelError | None = None
        self._lacking: CoverageError | None = None

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why the model currently cannot be measured."""
        return self._coupled or self._lacking

    def survey(self, parameters: Mapping[str, Parameter]) -> Inventory:
        """Goes through the layers of the model. What earlier steps have shown is kept."""
        grad_sq = None
        if self.parameters.keys() == parameters.keys():
            grad_sq = self._grad_sq
        watched = trained(parameters)
        known = {**self._handed, **self._dropped}
        inventory = take_inventory(self._module, watched, known, eager=self._eager)
        compiled = next(iter(compiled_parts(self._module)), None)
        self._calls_are_seen = self._calls and (self._eager or compiled is None)
        if self._calls_are_seen:
            inventory = inventory.with_calls(self._dropped)
        self._by_calls = inventory.by_calls
        self.parameters = watched
        self._uncovered = inventory.uncovered
        self._update(grad_sq)
        self._coupled = coupled_examples(self._module)
        return inventory

    def hand_over(self, causes: Mapping[str, Cause]) -> dict[str, Parameter]:
        """Those of the parameters that are left to the watch on calls from now on.

        They are those that layers were to cover, unless parts of the model are compiled.
        """
        found: dict[str, Parameter] = {}
        if not self._calls_are_seen:
            return found
        for name, cause in causes.items():
            if name not in self._by_calls and cause.kind not in UNSEEN_BY_CALLS:
                found[name] = self.parameters[name]
                self._handed[name] = cause
        self._by_calls |= found.keys()
        return found

    def drop(self, causes: Mapping[str, Cause]) -> list[Group]:
        """Leaves parameters out from now on, and returns them grouped by cause."""
        self._dropped |= causes
        self._uncovered = {**self._uncovered, **causes}
        self._update(self._grad_sq)
        return by_cause(self._missing(causes))

    def weigh(self) -> None:
        """Measures the covered share of |ḡ|² from ``.grad``. Waits for the device."""
        seen = _squared_norm(self.covered.values())
        missing = map(self.parameters.__getitem__, self._uncovered)
        total = seen + _squared_norm(missing)
        share = None
        if total > 0:
            share = seen / total
        self._update(share)

    @property
    def _grad_sq(self) -> float | None:
        if self.coverage is None:
            return None
        return self.coverage.grad_sq

    def _update(self, grad_sq: float | None) -> None:
        """Updates what is covered, and whether that is enough."""
        self.covered = {}
        covered_numbers = 0
        missing_numbers = 0
        for name, parameter in self.parameters.items():
            if name in self._uncovered:
                missing_numbers += parameter.numel()
            else:
                covered_numbers += parameter.numel()
                self.covered[name] = parameter
        total = covered_numbers + missing_numbers
        share = 1 - missing_numbers / max(1, total)
        missing = self._missing(self._uncovered)
        self.coverage = Coverage(share, grad_sq, tuple(missing))
        enough = bool(self.covered) and self.coverage.least >= self._min_coverage
        self._lacking = None
        if not enough:
            self._lacking = CoverageError(self.coverage, self._min_coverage)

    def _missing(self, causes: Mapping[str, Cause]) -> list[Missing]:
        sizes = self.parameters
        return [Missing(name, sizes[name].numel(), cause) for name, cause in causes.items()]


def _squared_norm(parameters: Iterable[Parameter]) -> float:
    """Of the gradients of ``parameters``, where they have one."""
    device = torch.device("cpu")
    norms: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            device = parameter.grad.device
            norms += chunk_norms(parameter.grad)
    return float(sum_of_squares(norms, device))
