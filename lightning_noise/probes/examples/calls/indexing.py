"""Operations that take some of the numbers of a tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.seen import Seen

Rule = Callable[[Seen, Tensor], "Fold | None"]


def taken(position: int = 1, default: int | None = None) -> Rule:
    """Slices along the dimension at ``position``: of the examples' one, whole batches only."""

    def rule(seen: Seen, out: Tensor) -> Fold | None:
        found = {fold for _, fold in seen.batch}
        if len(found) != 1:
            return None
        x, fold = seen.batch[0]
        dim = seen.argument(position, "dim", default)
        if type(dim) is not int:
            return None
        dim %= x.dim()
        if dim == fold.dim:
            return None
        gone = out.dim() < x.dim() and dim < fold.dim
        return fold._replace(dim=fold.dim - gone)

    return rule


def parted(position: int = 2, default: int = 0) -> Rule:
    """Cut in pieces along a dimension."""
    other = taken(position, default)

    def rule(seen: Seen, out: Tensor) -> Fold | None:
        x, fold = seen.batch[0]
        dim = seen.argument(position, "dim", default)
        if type(dim) is int and dim % x.dim() == fold.dim:
            # with equal pieces of whole batches each begins where a batch does
            equal = x.shape[fold.dim] % max(1, out.shape[fold.dim]) == 0
            return fold if equal and fold.holds(out.shape) else None
        return other(seen, out)

    return rule


def indexed(seen: Seen, out: Tensor) -> Fold | None:
    """x[…]."""
    x, index = seen.args
    parts = list(index) if type(index) is tuple else [index]
    if any(isinstance(part, (list, bool)) for part in parts):
        return None
    arrays = [part for part in parts if isinstance(part, Tensor)]
    if any(part.dtype in (torch.bool, torch.uint8) for part in arrays):
        return None
    fold = seen.fact(x)
    if isinstance(fold, Fold):
        return _of_batch(seen, fold, parts, arrays, out)
    if len(arrays) != 1:
        return None
    found = seen.fact(arrays[0])
    if not isinstance(found, Fold):
        return None
    before = _without_ellipsis(parts, x.dim())
    place = next(n for n, part in enumerate(before) if part is arrays[0])
    return found._replace(dim=found.dim + _kept(before[:place]))


def _of_batch(
    seen: Seen,
    fold: Fold,
    parts: list[Any],
    arrays: list[Tensor],
    out: Tensor,
) -> Fold | None:
    x = seen.args[0]
    parts = _without_ellipsis(parts, x.dim())
    place = _place_of(fold.dim, parts)
    part = parts[place]
    if isinstance(part, slice) and part.indices(x.shape[fold.dim]) == (0, x.shape[fold.dim], 1):
        return _beside_arrays(seen, fold, parts, arrays, place, out)
    if isinstance(part, Tensor) and place == 0 and _counts(part, fold, x):
        others = [seen.fact(array) for array in arrays if array is not part]
        if len(arrays) > 1 and all(other == Fold(fold.examples) for other in others):
            return Fold(fold.examples)  # x[arange(B), index]: one place of each example
    return None


def _beside_arrays(
    seen: Seen,
    fold: Fold,
    parts: list[Any],
    arrays: list[Tensor],
    place: int,
    out: Tensor,
) -> Fold | None:
    if any(isinstance(seen.fact(array), Fold) for array in arrays):
        return None
    spots = [n for n, part in enumerate(parts) if isinstance(part, Tensor)]
    if not spots:
        return fold._replace(dim=_kept(parts[:place]))
    if spots != list(range(spots[0], spots[0] + len(spots))):
        return None  # their dimensions come first
    before = _kept([part for part in parts[:place] if not isinstance(part, Tensor)])
    rank = out.dim() - _kept([part for part in parts if not isinstance(part, Tensor)])
    return fold._replace(dim=before + (rank if spots[0] < place else 0))


def _counts(index: Tensor, fold: Fold, x: Tensor) -> bool:
    whole = fold.inner == 1 and fold.outer(x.shape) == 1
    if not whole or index.dim() != 1 or len(index) != fold.examples:
        return False
    return bool(torch.equal(index, torch.arange(fold.examples, device=index.device)))


def _without_ellipsis(parts: list[Any], rank: int) -> list[Any]:
    """One entry for each dimension, and one ``None`` for each new one."""
    used = sum(part is not None and part is not Ellipsis for part in parts)
    rest = [slice(None)] * (rank - used)
    for place, part in enumerate(parts):
        if part is Ellipsis:
            return [*parts[:place], *rest, *parts[place + 1 :]]
    return [*parts, *rest]


def _place_of(dim: int, parts: list[Any]) -> int:
    """Which entry is that of a dimension."""
    places = [place for place, part in enumerate(parts) if part is not None]
    return places[dim]


def _kept(parts: list[Any]) -> int:
    """How many dimensions entries give: none for a single number."""
    return sum(part is None or isinstance(part, slice) for part in parts)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(["narrow", "select", "index_select", "unfold", "gather"], taken()),
    **dict.fromkeys(["scatter", "scatter_add", "index_add", "index_copy", "index_fill"], taken()),
    "unbind": taken(1, 0),
    **dict.fromkeys(("topk", "kthvalue"), taken(2, -1)),
    "diff": taken(2, -1),
    **dict.fromkeys(["split", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"], parted()),
    "getitem": indexed,
}
