"""Squared norms of named tensors, summed by key."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.probes.chunk_buffer import ChunkBuffer
from lightning_noise.probes.double_float import Wide, wide_stack, wide_sum, wide_zeros
from lightning_noise.probes.norms import chunk_norms, sum_of_squares
from lightning_noise.probes.preconditioner import weighted_chunk_norms
from lightning_noise.probes.probe import Diagonal
from lightning_noise.probes.small import SmallParameters, small_parameters


class KeyedNorms:
    """Sums squared norms of named tensors by key.

    Parameters that belong to the same keys share one cell, so that with one key there is one
    concatenation per micro-batch.

    Args:
        parameters: by name.
        keys: the names that each key is summed over.
        diagonal: gives the optimizer's preconditioner P of a parameter, for keys of geometry
            "optimizer", which sum gᵀPg. Where it returns ``None`` there is no P yet, and such keys
            have no moments in this step.

    Attributes:
        small: parameters whose gradients are so small that a kernel for each takes longer to launch
            than to run. Their norms are best taken together.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        diagonal: Diagonal | None = None,
    ) -> None:
        self._diagonal = diagonal
        self._parameters = dict(parameters)
        self._keys = len(keys)
        self._absent: list[int] = []  # indices of keys without any parameter here
        self._weighted: dict[str, int] = {}  # name → index of the key
        members: defaultdict[str, list[int]] = defaultdict(list)  # name → indices of keys
        for index, (key, names) in enumerate(keys.items()):
            present = [name for name in names if name in parameters]
            if not present:
                self._absent.append(index)
            if key.geometry == "optimizer":
                self._weighted |= dict.fromkeys(present, index)
                continue
            for name in present:
                members[name].append(index)
        cells: dict[tuple[int, ...], int] = {}
        self.cell_of: dict[str, int] = {}
        for name in parameters:
            owner = tuple(members[name])
            self.cell_of[name] = cells.setdefault(owner, len(cells))
        self._owners = list(cells)
        self._norms: list[list[Tensor]] = []
        self._weighted_norms: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._without_diagonal: set[int] = set()
        self.device = torch.device("cpu")
        first = next(iter(parameters.values()), None)
        if first is not None:
            self.device = first.device
        unweighted = {name: p for name, p in parameters.items() if name not in self._weighted}
        self.small = SmallParameters(small_parameters(unweighted, self.device), self.cell_of)
        self._small_names = frozenset(self.small.names)
        self._large = [name for name in parameters if name not in self._small_names]
        self._buffers: list[ChunkBuffer] = []  # by cell
        for cell in range(len(cells)):
            here = {name: parameters[name] for name in self._large if self.cell_of[name] == cell}
            self._buffers.append(ChunkBuffer(here))
        self.clear()

    def add(self, cell: int, tensor: Tensor) -> None:
        """Notes the norms of one tensor: one small kernel, and nothing is summed yet."""
        self._norms[cell] += chunk_norms(tensor)

    def see(self, name: str, gradient: Tensor) -> None:
        """Notes the norms of the gradient of parameter ``name``, in every requested metric."""
        cell = self.cell_of[name]
        # beside a weighted norm in the same order as that, so that P = 1 gives the same bits
        if self._weighted or not self._buffers[cell].see(name, gradient):
            self.add(cell, gradient)
        if name not in self._weighted or self._diagonal is None:
            return
        index = self._weighted[name]
        diagonal = self._diagonal(self._parameters[name])
        if diagonal is None:
            self._without_diagonal.add(index)
        else:
            self._weighted_norms[index] += weighted_chunk_norms(gradient, diagonal)

    def see_all(self, gradients: Mapping[str, Tensor]) -> None:
        """As :meth:`see`, for the gradients of several parameters, in as few kernels as possible.

        Half precision is widened by the norms as it is for one gradient.
        """
        for name, gradient in gradients.items():
            if name not in self._small_names:
                self.see(name, gradient)
        found = [gradients.get(name) for name in self.small.names]
        self.add_joined(dict(self.small.joined(found)))

    def add_joined(self, joined: Mapping[int, Tensor]) -> None:
        """Notes the norms of gradients of small parameters, joined by cell."""
        for cell, gradients in joined.items():
            self.add(cell, gradients)

    @property
    def is_weighted(self) -> bool:
        """Whether some key is summed in the optimizer's metric.

        Then gradients must be seen one parameter at a time.
        """
        return bool(self._weighted)

    def total(self) -> Wide:
        """Returns squared norms by key, fp64 of shape (keys,), and forgets what was noted.

        A cell that overflowed spoils only its own keys.
        """
        squares: defaultdict[int, list[Wide]] = defaultdict(list)  # by index of the key
        for cell, owner in enumerate(self._owners):
            norms = self._norms[cell]
            buffer = self._buffers[cell]
            if buffer.norms is not None and not buffer.is_empty:
                norms = [*norms, buffer.norms]
            if norms and owner:
                square = sum_of_squares(norms, self.device)
                for index in owner:
                    squares[index].append(square)
        for index, norms in self._weighted_norms.items():
            squares[index] = [sum_of_squares(norms, self.device)]
        self.clear()
        return self._by_key(squares)

    def _by_key(self, squares: Mapping[int, list[Wide]]) -> Wide:
        """The sums of the squares of every key; 0 where there are none."""
        sums: list[Wide] = []
        for index in range(self._keys):
            of_key = squares.get(index)
            if of_key is None:
                sums.append(wide_zeros((), self.device))
            elif len(of_key) == 1:
                sums.append(of_key[0])
            else:
                sums.append(wide_sum(of_key))
        return wide_stack(sums, self.device)

    def add_norms(self, cell: int, norms: Iterable[Tensor]) -> None:
        """Notes 1-d norms that were taken elsewhere: their squares are added."""
        self._norms[cell] += norms

    def add_gradients(
        self,
        parameters: Mapping[str, Parameter],
        small: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Notes the norms of ``.grad``, as the strategy has averaged it over the replicas.

        Args:
            parameters: those to note.
            small: what the small ones add, joined by cell, where it is known.
        """
        for name in self._large:
            parameter = parameters.get(name)
            if parameter is not None and parameter.grad is not None:
                self.see(name, parameter.grad)
        if small is None:
            small = self._small_gradients(parameters)
        self.add_joined(small)

    def _small_gradients(self, parameters: Mapping[str, Parameter]) -> dict[int, Tensor]:
        gradients = self.small.gradients()
        if len(parameters) < len(self._parameters):
            for place, name in enumerate(self.small.names):
                if name not in parameters:
                    gradients[place] = None
        return dict(self.small.joined(gradients))

    def leave_out_absent(self, row: Wide) -> Wide:
        """Zeroes the lines of keys that take no part in this step.

        These have no parameter here (frozen layers), or no P yet.
        """
        for index in (*self._absent, *self._without_diagonal):
            row[index].zero_()
        self._without_diagonal = set()
        return row

    def clear(self) -> None:
        """Forgets what was noted."""
        self._norms = [[] for _ in self._owners]
        for buffer in self._buffers:
            buffer.clear()
        self._weighted_norms.clear()
