"""Derived tables whose rows are chosen by the batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.met_repeated import repeated
from lightning_noise.probes.examples.calls.operands import batch_of, derived_among
from lightning_noise.probes.examples.calls.placed import Sides
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import Contribution, Form, NotPerExample
from lightning_noise.probes.examples.lookup import Lookup
from lightning_noise.probes.examples.rules.embedding import BY_FREQUENCY, EmbeddingRule

Parameters = Mapping[str, Tensor]


class LookupMeeting(Meeting):
    """table[ids].

    Args:
        of_ids: where the examples lie in the indices.
        padding: row that gets no gradient.
        sparse: whether the table's gradient is.
        before: dimensions of the output in front of those of the indices.
    """

    op = "embedding"
    positions_first = True

    def __init__(
        self,
        *args: Any,
        of_ids: Fold,
        padding: int | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__(*args)
        self.of_ids = of_ids
        self.padding = padding
        self.sparse = sparse

    def sides(self, own: str) -> Sides | None:
        """Rows of all that an index chooses."""
        shape = self.met[own].tensor.shape
        return shape[0], shape[1:].numel()

    def offers(self) -> dict[str, tuple[Form, ...]]:
        """One sign per row of the table."""
        found: dict[str, tuple[Form, ...]] = {}
        for key, forms in super().offers().items():
            found[key] = tuple(form for form in forms if form.side == "rows")
        return found

    def doubts(self, inputs: tuple[Tensor, ...]) -> str | None:
        """As of an embedding."""
        return EmbeddingRule().doubts(inputs)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The rows that were looked up."""
        ids = self.of_ids.first(inputs[0])
        table = self.met["table"].tensor
        grad = grad.flatten(ids.dim()) if table.dim() > 1 else grad.unsqueeze(-1)
        part = Lookup(grad, ids % len(table), len(table), self.padding, self.sparse)
        return {"table": part}


def embedding(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.embedding(input, weight, padding_idx, …)``."""
    if seen.argument(5, "scale_grad_by_freq", False):
        raise NotPerExample(BY_FREQUENCY)
    ids, table = seen.argument(0, "input"), seen.argument(1, "weight")
    padding = seen.argument(2, "padding_idx")
    return LookupMeeting(
        derived_among(seen, {"table": table}),
        (ids,),
        at,
        parameters,
        of_ids=batch_of(seen, ids),
        padding=None if padding is None else padding % len(table),
        sparse=bool(seen.argument(6, "sparse", False)),
    )


def indexed(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``table[ids]`` along the first dimensions."""
    table, index = seen.args
    several = index if type(index) is tuple else (index,)
    rest = several[_leading(several) :]
    if _leading(several) == 0 or any(part != slice(None) for part in rest if not _is_array(part)):
        return repeated(seen, at, parameters)
    if any(_is_array(part) for part in rest):
        return repeated(seen, at, parameters)
    if _leading(several) > 1:
        return _cells_of(seen, table, several[: _leading(several)], at, parameters)
    return _rows_of(seen, table, several[0], at, parameters)


def _is_array(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dtype not in (torch.bool, torch.uint8)


def _leading(parts: tuple[Any, ...]) -> int:
    """How many indices in front are tensors of whole numbers."""
    for count, part in enumerate(parts):
        if not _is_array(part):
            return count
    return len(parts)


def selected(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``torch.index_select(table, 0, ids)``."""
    table, ids = seen.argument(0, "input"), seen.argument(2, "index")
    if seen.argument(1, "dim") % table.dim() != 0:
        raise NotPerExample("its columns are chosen by the batch")
    return _rows_of(seen, table, ids, at, parameters)


def _rows_of(
    seen: Seen, table: Tensor, ids: Tensor, at: Arrangement, parameters: Parameters
) -> Meeting:
    operands = derived_among(seen, {"table": table})
    return LookupMeeting(operands, (ids,), at, parameters, of_ids=batch_of(seen, ids))


def _cells_of(
    seen: Seen, table: Tensor, ids: tuple[Tensor, ...], at: Arrangement, parameters: Parameters
) -> Meeting:
    """``table[i, j]``: rows of the table with its first dimensions as one."""
    operands = derived_among(seen, {"table": table})
    folds = {fold for fold in map(seen.fact, ids) if isinstance(fold, Fold)}
    if len(folds) != 1:
        raise NotPerExample("indices of which the examples lie in different places choose it")
    return CellMeeting(operands, ids, at, parameters, of_ids=folds.pop(), indices=len(ids))


class CellMeeting(LookupMeeting):
    """table[i, j].

    Args:
        indices: how many of them.
    """

    def __init__(self, *args: Any, indices: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.indices = indices

    def sides(self, own: str) -> Sides | None:
        """Rows of all that a pair of indices chooses."""
        shape = self.met[own].tensor.shape
        return shape[: self.indices].numel(), shape[self.indices :].numel()

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The rows that were looked up."""
        table = self.met["table"].tensor
        size = table.shape[: self.indices]
        row = torch.zeros_like(inputs[0])
        for ids, length in zip(inputs, size, strict=True):
            row = row * length + ids % length
        row = self.of_ids.first(row)
        grad = grad.unsqueeze(-1) if table.dim() == self.indices else grad.flatten(row.dim())
        return {"table": Lookup(grad, row, size.numel(), None)}


class BagMeeting(LookupMeeting):
    """Sums or means of rows.

    Args:
        mean: whether rows are averaged.
        weighted: whether the last input holds a factor for each index.
        offsets: whether the second input holds where each example's indices begin.
    """

    op = "embedding_bag"

    def __init__(
        self, *args: Any, mean: bool, weighted: bool, offsets: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mean = mean
        self.weighted = weighted
        self.offsets = offsets

    def doubts(self, inputs: tuple[Tensor, ...]) -> str | None:
        """None: a bag belongs to an example."""
        return None

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The gradient at each index is a share of the bag's."""
        ids = inputs[0]
        factors = inputs[-1] if self.weighted else torch.ones_like(ids, dtype=grad.dtype)
        if self.offsets:
            ids, factors = _padded(ids, factors, inputs[1])
        if self.padding is not None:
            factors = factors.masked_fill(ids == self.padding, 0)
        if self.mean:
            factors = factors / factors.sum(1, keepdim=True).clamp_min(1)
        table = self.met["table"].tensor
        shares = grad.unsqueeze(1) * factors.unsqueeze(2)
        return {"table": Lookup(shares, ids, len(table), self.padding, self.sparse)}


def _padded(ids: Tensor, factors: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Indices by example, and their factors: 0 beyond the last one of an example."""
    places = torch.arange(len(ids), device=ids.device)
    bags = torch.searchsorted(offsets, places, right=True) - 1
    within = places - offsets[bags]
    longest = int(within.max()) + 1 if len(ids) else 1
    size = (len(offsets), longest)
    wide_ids, wide_factors = ids.new_zeros(size), factors.new_zeros(size)
    wide_ids[bags, within], wide_factors[bags, within] = ids, factors
    return wide_ids, wide_factors


def bag(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.embedding_bag(input, weight, offsets, …)``."""
    if seen.argument(5, "scale_grad_by_freq", False):
        raise NotPerExample(BY_FREQUENCY)
    mode = seen.argument(6, "mode", "mean")
    if seen.argument(9, "include_last_offset", False):
        raise NotPerExample("embedding_bag was called with include_last_offset=True")
    if mode == "max" and seen.argument(0, "input").dim() == 1:
        raise NotPerExample("embedding_bag was called with mode='max' and offsets")
    if mode == "max":
        return repeated(seen, at, parameters)
    ids, table, offsets = (seen.argument(n, key) for n, key in enumerate(BAG))
    weights = seen.argument(8, "per_sample_weights")
    by_offsets = ids.dim() == 1
    given = (ids, offsets, weights) if by_offsets else (ids, weights)
    padding = seen.argument(10, "padding_idx")
    return BagMeeting(
        derived_among(seen, {"table": table}),
        tuple(x for x in given if x is not None),
        at,
        parameters,
        of_ids=batch_of(seen, offsets if by_offsets else ids),
        padding=None if padding is None else padding % len(table),
        sparse=bool(seen.argument(7, "sparse", False)),
        mean=mode == "mean",
        weighted=weights is not None,
        offsets=by_offsets,
    )


BAG = ("input", "weight", "offsets")
MEETINGS = {
    "embedding_bag": bag,
    "embedding": embedding,
    "getitem": indexed,
    "index_select": selected,
}
