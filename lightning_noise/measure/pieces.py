"""A batch split into pieces along its first dimension."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_noise.measure import batches


class Piece(NamedTuple):
    """A piece of a batch and the number of its rows."""

    content: Any
    rows: int


def split(batch: Any, pieces: int) -> list[Piece] | None:
    """Splits all tensors of a batch that have its number of rows; tensors of other lengths and
    everything else are shared by all pieces. ``None`` where there are fewer rows than pieces.

    >>> import torch
    >>> [(part["x"].tolist(), rows) for part, rows in split({"x": torch.arange(5), "n": 3}, 2)]
    [([0, 1, 2], 3), ([3, 4], 2)]
    """
    rows = batches.rows(batch)
    if rows is None or rows < pieces:
        return None
    found: list[Piece] = []
    start = 0
    for remaining in reversed(range(pieces)):
        end = start + (rows + remaining) // pieces
        part = partial(_rows_of, rows=rows, start=start, end=end)
        content = tree_map(part, batch)
        found.append(Piece(content, end - start))
        start = end
    return found


def _rows_of(leaf: Any, rows: int, start: int, end: int) -> Any:
    if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows:
        return leaf[start:end]
    return leaf
