"""Squared norms of named tensors, summed by key."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.probes.norms import chunk_norms, sum_of_squares
from lightning_noise.probes.preconditioner import weighted_chunk_norms
from lightning_noise.probes.probe import Diagonal


class KeyedNorms:
    """Sums squared norms of named tensors by key.

    Parameters that belong to the same keys share one cell, so that with one key there is one
    concatenation a micro-batch.

    Args:
        parameters: by name.
        keys: the names that each key is summed over.
        diagonal: the optimizer's preconditioner P of a parameter, for keys of geometry "optimizer",
            which sum gᵀPg; ``None`` from it: there is no P yet, and such keys have no number in
            this step.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        diagonal: Diagonal | None = None,
    ) -> None:
        self._diagonal = diagonal
        self._weighted: dict[str, int] = {}  # name → index of the key
        members: dict[str, list[int]] = {name: [] for name in parameters}
        for index, (key, names) in enumerate(keys.items()):
            if key.geometry == "optimizer":
                self._weighted |= {name: index for name in names if name in parameters}
                continue
            for name in names:
                if name in members:
                    members[name].append(index)
        cells: dict[tuple[int, ...], int] = {}
        self.cell_of = {
            name: cells.setdefault(tuple(owner), len(cells)) for name, owner in members.items()
        }
        self._owners = list(cells)
        self._keys = len(keys)
        self._absent = [
            index
            for index, names in enumerate(keys.values())
            if parameters.keys().isdisjoint(names)
        ]
        self._norms: list[list[Tensor]] = [[] for _ in cells]
        self._weighted_norms: dict[int, list[Tensor]] = {
            index: [] for index in self._weighted.values()
        }
        self._parameters = dict(parameters) if self._weighted else {}
        self._without_diagonal: set[int] = set()
        self.device = next((p.device for p in parameters.values()), torch.device("cpu"))

    def add(self, cell: int, tensor: Tensor) -> None:
        """Notes the norms of one tensor; one small kernel, nothing is summed yet."""
        self._norms[cell] += chunk_norms(tensor)

    def see(self, name: str, gradient: Tensor) -> None:
        """Notes the norms of the gradient of parameter ``name``, in every metric that
        is asked for.
        """
        self.add(self.cell_of[name], gradient)
        if name not in self._weighted or self._diagonal is None:
            return
        index, diagonal = self._weighted[name], self._diagonal(self._parameters[name])
        if diagonal is None:
            self._without_diagonal.add(index)
        else:
            self._weighted_norms[index] += weighted_chunk_norms(gradient, diagonal)

    @property
    def is_weighted(self) -> bool:
        """Whether some key is summed in the optimizer's metric, so that gradients must come one
        parameter at a time.
        """
        return bool(self._weighted)

    def total(self) -> Tensor:
        """Squared norms by key, fp64 of shape (keys,), and a fresh start. A cell that overflowed
        spoils only its own keys.
        """
        result = torch.zeros(self._keys, dtype=torch.float64, device=self.device)
        for owner, norms in zip(self._owners, self._norms, strict=True):
            if norms and owner:
                square = sum_of_squares(norms, self.device)
                for index in owner:
                    result[index] += square
        for index, norms in self._weighted_norms.items():
            result[index] = sum_of_squares(norms, self.device)
        self.clear()
        return result

    def add_norms(self, cell: int, norms: Iterable[Tensor]) -> None:
        """Notes norms that were taken elsewhere, 1-d: their squares are added."""
        self._norms[cell] += norms

    def add_gradients(self, parameters: Mapping[str, Parameter]) -> None:
        """Notes the norms of ``.grad``, as the strategy has averaged it over the replicas."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                self.see(name, parameter.grad)

    def leave_out_absent(self, row: Tensor) -> Tensor:
        """Zeroes the lines of keys without any parameter here (frozen layers), or without P yet:
        the step is not theirs.
        """
        for index in (*self._absent, *self._without_diagonal):
            row[index].zero_()
        self._without_diagonal = set()
        return row

    def clear(self) -> None:
        """Forgets what was noted."""
        self._norms = [[] for _ in self._owners]
        self._weighted_norms = {index: [] for index in self._weighted_norms}
