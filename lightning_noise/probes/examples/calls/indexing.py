"""Operations that take some of the numbers of a tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.seen import Seen

Rule = Callable[[Seen, Tensor], "Fold | None"]


def taken(position: int = 1, default: int | None = None) -> Rule:
    """Slices along the dimension at ``position``."""

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
            whole = equal and fold.owners is None and fold.holds(out.shape)
            return fold if whole else _stretch(x, fold, out)
        return other(seen, out)

    return rule


def narrowed(seen: Seen, out: Tensor) -> Fold | None:
    """A stretch along a dimension."""
    x, fold = seen.batch[0]
    dim = seen.argument(1, "dim")
    if type(dim) is int and dim % x.dim() == fold.dim:
        return _stretch(x, fold, out)
    return taken()(seen, out)


def _stretch(x: Tensor, fold: Fold, out: Tensor) -> Fold | None:
    """A view of some rows one after another: where it begins shows which ones."""
    dim = fold.dim
    if out.dim() != x.dim() or out.stride() != x.stride():
        return None
    start = (int(out.storage_offset()) - int(x.storage_offset())) // max(1, x.stride(dim))
    owners = fold.owner_of(x.shape[dim], x.device)
    return Fold.of_owners(owners[start : start + out.shape[dim]], fold.examples, dim)


def selected(seen: Seen, out: Tensor) -> Fold | None:
    """``index_select``: rows by their numbers."""
    index = seen.argument(2, "index")
    x = seen.argument(0, "input")
    fold = seen.fact(x)
    dim = seen.argument(1, "dim") % x.dim()
    if isinstance(fold, Fold) and fold.dim == dim:
        owners = fold.owner_of(x.shape[dim], x.device)
        return Fold.of_owners(owners[index.reshape(-1)], fold.examples, dim)
    if isinstance(fold, Fold):
        return None if isinstance(seen.fact(index), Fold) else fold
    found = seen.fact(index)
    return found._replace(dim=dim) if isinstance(found, Fold) else None


def indexed(seen: Seen, out: Tensor) -> Fold | None:
    """x[…]."""
    x, index = seen.args
    parts = parts_of(index, x)
    if any(isinstance(part, bool) for part in parts):
        return None
    arrays = [part for part in parts if isinstance(part, Tensor)]
    fold = seen.fact(x)
    if isinstance(fold, Fold):
        return _of_batch(seen, fold, parts, arrays)
    return _of_table(seen, parts, arrays)


def parts_of(index: Any, x: Tensor) -> list[Any]:
    """An index with one entry for each dimension of x, and one ``None`` for each new one.

    Lists become tensors, and masks the numbers of what they choose.
    """
    parts: list[Any] = []
    for part in index if type(index) is tuple else (index,):
        if isinstance(part, list):
            part = torch.as_tensor(part, device=x.device)
        mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
        if mask and part.dim() > 0:
            parts += part.nonzero(as_tuple=True)
        else:
            parts.append(part)
    return _without_ellipsis(parts, x.dim())


def _of_table(seen: Seen, parts: list[Any], arrays: list[Tensor]) -> Fold | None:
    """Rows of anything, chosen by the batch: every entry of the indices is one."""
    batch = [array for array in arrays if isinstance(seen.fact(array), Fold)]
    if not batch or len({array.shape for array in arrays}) > 1:
        return None
    found = {seen.fact(array) for array in batch}
    first = _first_array(parts)
    if len(found) != 1 or first is None:
        return None
    (fold,) = found
    if not isinstance(fold, Fold):
        return None
    return fold._replace(dim=fold.dim + _kept(parts[:first]))


def _first_array(parts: list[Any]) -> int | None:
    """The place of the first array; ``None``: something lies between them."""
    spots = [n for n, part in enumerate(parts) if isinstance(part, Tensor)]
    together = spots == list(range(spots[0], spots[0] + len(spots)))
    return spots[0] if together else None


def _of_batch(
    seen: Seen,
    fold: Fold,
    parts: list[Any],
    arrays: list[Tensor],
) -> Fold | None:
    x = seen.args[0]
    size = x.shape[fold.dim]
    place = _place_of(fold.dim, parts)
    part = parts[place]
    if isinstance(part, slice) and part.indices(size) == (0, size, 1):
        return _beside_arrays(seen, fold, parts, arrays, place)
    owners = fold.owner_of(size, x.device)
    if isinstance(part, slice) and not arrays:
        return Fold.of_owners(owners[part], fold.examples, _kept(parts[:place]))
    if isinstance(part, Tensor) and part.dim() > 0:
        return _of_rows(owners[part], fold.examples, parts, arrays)
    return None


def _of_rows(owners: Tensor, examples: int, parts: list[Any], arrays: list[Tensor]) -> Fold | None:
    """Rows that arrays choose: the first dimension of the arrays is that of the rows."""
    shape = torch.broadcast_shapes(*(array.shape for array in arrays))
    by_row = owners.expand(shape).flatten(1) if len(shape) > 1 else owners.unsqueeze(1)
    if by_row.shape[1] != 1 and not bool((by_row == by_row[:, :1]).all()):
        return None
    first = _first_array(parts)
    # arrays with something between them: their dimensions come first
    dim = 0 if first is None else _kept(parts[:first])
    return Fold.of_owners(by_row[:, 0].contiguous(), examples, dim)


def _beside_arrays(
    seen: Seen,
    fold: Fold,
    parts: list[Any],
    arrays: list[Tensor],
    place: int,
) -> Fold | None:
    if any(isinstance(seen.fact(array), Fold) for array in arrays):
        return None
    if not arrays:
        return fold._replace(dim=_kept(parts[:place]))
    first = _first_array(parts)
    if first is None:
        return None  # their dimensions come first
    before = _kept([part for part in parts[:place] if not isinstance(part, Tensor)])
    rank = len(torch.broadcast_shapes(*(array.shape for array in arrays)))
    return fold._replace(dim=before + (rank if first < place else 0))


def added_to_rows(seen: Seen, out: Tensor) -> Fold | None:
    """``index_add`` and the like: what goes to a row must belong to the example of the row."""
    dim = seen.argument(1, "dim")
    source = seen.argument(3, "source", seen.kwargs.get("src"))
    index = seen.argument(2, "index")
    fold = seen.fact(source)
    if type(dim) is not int or not isinstance(fold, Fold) or fold.dim != dim % out.dim():
        return taken()(seen, out)
    if index.dim() > 1:
        by_row = index.movedim(fold.dim, 0).flatten(1)
        if not bool((by_row == by_row[:, :1]).all()):
            return None
        index = by_row[:, 0]
    owners = fold.owner_of(source.shape[fold.dim], out.device)[: len(index)]
    return rows_of(seen.fact(seen.args[0]), out, index, fold._replace(owners=None), owners)


def rows_of(target: object, out: Tensor, index: Tensor, fold: Fold, owners: Tensor) -> Fold | None:
    """Where the examples lie in a tensor to rows of which examples were written.

    Args:
        target: what is known of it.
        out: the tensor.
        index: the rows, along the dimension of ``fold``.
        fold: the dimension.
        owners: the example of what was written to each row.
    """
    size = out.shape[fold.dim]
    candidates: list[Fold] = []
    if isinstance(target, Fold):
        candidates.append(target)
    elif size % fold.examples == 0:
        for inner in (size // fold.examples, 1):
            candidates.append(Fold(fold.examples, fold.dim, inner))
    for candidate in candidates:
        if candidate.dim != fold.dim:
            continue
        if torch.equal(candidate.owner_of(size, out.device)[index], owners):
            return candidate
    return None


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
    **dict.fromkeys(["select", "unfold", "gather", "index_fill"], taken()),
    **dict.fromkeys(["scatter", "scatter_add", "index_add", "index_copy"], added_to_rows),
    "narrow": narrowed,
    "index_select": selected,
    "unbind": taken(1, 0),
    **dict.fromkeys(("topk", "kthvalue"), taken(2, -1)),
    "diff": taken(2, -1),
    **dict.fromkeys(["split", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"], parted()),
    "getitem": indexed,
}
