"""Norms of chunks of tensors that come again in every pass, in memory that is allocated once."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.probes.norms import CHUNK, chunk_norms_into, norm_dtype


class ChunkBuffer:
    """Norms of the chunks of gradients, side by side.

    Small tensors that live until the end of a pass, between large ones that come and go, would
    scatter over the heap and keep it from shrinking.

    Args:
        parameters: whose gradients are seen, by name.

    Attributes:
        norms: 1-d norms of the gradients seen since :meth:`clear`, 0 for others; ``None`` before
            the first.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._elements = {name: p.numel() for name, p in parameters.items()}
        self._places: dict[str, slice] = {}
        self._size = 0
        for name, elements in self._elements.items():
            start, self._size = self._size, self._size + math.ceil(elements / CHUNK)
            self._places[name] = slice(start, self._size)
        self._seen: set[str] = set()
        self.norms: Tensor | None = None

    def see(self, name: str, gradient: Tensor) -> bool:
        """Notes the norms of a gradient, and returns whether it did.

        It does not where the gradient has another form than the one before it: sparse, of another
        size, precision or device, or a second one in the same pass.
        """
        if name in self._seen or gradient.layout != torch.strided or gradient.is_complex():
            return False
        if gradient.numel() != self._elements.get(name, 0) or gradient.numel() == 0:
            return False
        dtype = norm_dtype(gradient)
        if self.norms is None:
            self.norms = torch.zeros(self._size, dtype=dtype, device=gradient.device)
        elif self.norms.dtype != dtype or self.norms.device != gradient.device:
            return False
        chunk_norms_into(gradient, self.norms[self._places[name]])
        self._seen.add(name)
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been seen since :meth:`clear`."""
        return not self._seen

    def clear(self) -> None:
        """Forgets what was seen."""
        if self._seen and self.norms is not None:
            self.norms.zero_()
        self._seen.clear()
