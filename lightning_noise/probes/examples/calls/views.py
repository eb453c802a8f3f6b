"""Operations that lay the numbers of a tensor out in another shape."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.pointwise import pointwise
from lightning_noise.probes.examples.calls.seen import Seen


def reshaped(seen: Seen, out: Tensor) -> Fold | None:
    """Numbers stay in order."""
    x, fold = seen.batch[0]
    if x.numel() != out.numel():
        return None
    return fold.refolded(x.shape, out.shape)


def transposed(seen: Seen, out: Tensor) -> Fold | None:
    """Two dimensions change places."""
    ((x, fold),) = seen.batch
    first = seen.argument(1, "dim0", seen.kwargs.get("axis0")) % x.dim()
    second = seen.argument(2, "dim1", seen.kwargs.get("axis1")) % x.dim()
    return fold._replace(dim={first: second, second: first}.get(fold.dim, fold.dim))


def permuted(seen: Seen, out: Tensor) -> Fold | None:
    """Dimensions change places: a tensor without numbers shows how."""
    ((x, fold),) = seen.batch
    sizes = torch.empty(tuple(range(2, 2 + x.dim())), device="meta")
    args: list[Any] = [sizes if given is x else given for given in seen.args]
    kwargs = {key: sizes if given is x else given for key, given in seen.kwargs.items()}
    shown: Tensor = seen.function(*args, **kwargs)
    return fold._replace(dim=shown.shape.index(2 + fold.dim))


def repeated(seen: Seen, out: Tensor) -> Fold | None:
    """All of a tensor several times along some dimensions, the batch after the batch."""
    ((x, fold),) = seen.batch
    return fold._replace(dim=fold.dim + out.dim() - x.dim())


def interleaved(seen: Seen, out: Tensor) -> Fold | None:
    """Each slice several times."""
    ((x, fold),) = seen.batch
    times, dim = seen.argument(1, "repeats"), seen.argument(2, "dim")
    if dim is None:
        return None
    if dim % x.dim() != fold.dim:
        return fold
    return fold._replace(inner=fold.inner * times) if isinstance(times, int) else None


def joined(seen: Seen, out: Tensor) -> Fold | None:
    """Tensors one after another; along the examples' dimension, all of them hold examples."""
    found = {fold for _, fold in seen.batch}
    dim = seen.argument(1, "dim", seen.kwargs.get("axis", 0)) % out.dim()
    along = all(fold.dim == dim for fold in found)
    if len(found) == 1 and not along:
        return found.pop()
    if not along or len(seen.batch) < len(seen.facts):
        return None
    fold = seen.batch[0][1]
    if len(found) == 1 and fold.owners is None:
        return fold
    owners = [one.owner_of(x.shape[dim], out.device) for x, one in seen.batch]
    return Fold.of_owners(torch.cat(owners), fold.examples, dim)


def stacked(seen: Seen, out: Tensor) -> Fold | None:
    """Tensors one after another along a new dimension."""
    found = {fold for _, fold in seen.batch}
    if len(found) != 1:
        return None
    (fold,) = found
    dim = seen.argument(1, "dim", 0) % out.dim()
    return fold._replace(dim=fold.dim + (dim <= fold.dim))


RULES: Mapping[str, Callable[[Seen, Tensor], "Fold | None"]] = {
    **dict.fromkeys(
        ["view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"], reshaped
    ),
    **dict.fromkeys(("view_as", "reshape_as", "unsafe_view"), reshaped),
    "transpose": transposed,
    **dict.fromkeys(["permute", "movedim", "t", "adjoint"], permuted),
    **dict.fromkeys(["__get__T", "__get__mT", "__get__H", "__get__mH"], permuted),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), pointwise),
    **dict.fromkeys(("repeat", "tile"), repeated),
    "repeat_interleave": interleaved,
    "cat": joined,
    "stack": stacked,
}
