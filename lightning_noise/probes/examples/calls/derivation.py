"""How a call derives tensors from parameters, so that it can be repeated and led back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived, Place
from lightning_noise.probes.examples.calls.names import names
from lightning_noise.probes.examples.calls.seen import Seen

VIEWS = names(
    """
    view reshape flatten unflatten squeeze unsqueeze transpose permute movedim t __get__T
    __get__mT narrow select unbind split chunk getitem view_as expand
    """
)
CASTS = names(
    """
    to float double half bfloat16 contiguous clone type type_as
    """
)


def is_evaluated(seen: Seen) -> bool:
    """Whether a random operation is not random now."""
    return seen.argument(2, "training", True) is False or seen.argument(1, "p", 0.5) == 0


def standing_for(seen: Seen, given: Any) -> Any:
    """Arguments with facts in place of derived tensors."""
    if isinstance(given, Tensor):
        fact = seen.fact(given)
        return fact if isinstance(fact, Derived) else given
    if type(given) in (list, tuple):
        return type(given)([standing_for(seen, x) for x in given])
    return given


def place_of(seen: Seen, out: Tensor) -> Place | None:
    """Where a view, or a copy, of a derived tensor lies in its parameter."""
    tensor, derived = seen.derived[0]
    before = derived.place
    if before is None or len(seen.derived) > 1:
        return None
    size, stride = tuple(out.shape), out.stride()
    base = out._base
    if seen.name in VIEWS and base is not None and (base is tensor or base is tensor._base):
        if before.stride != tensor.stride():
            return None
        offset = int(out.storage_offset()) - int(tensor.storage_offset())
        return Place(size, stride, before.offset + offset)
    whole = before == Place(size, stride, 0)
    return before if seen.name in CASTS and whole and out.is_contiguous() else None


def on_a_copy(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that changes its first argument, made to change a copy."""

    def again(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return function(tensor.clone(), *args, **kwargs)

    return again


def with_part(base: Tensor, view: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that puts a part into a copy of a tensor, where a view of it lies.

    It chooses numbers one by one: strides mean nothing where gradients are batched.
    """
    places = torch.arange(base.numel(), device=base.device)
    laid = torch.empty_strided(base.shape, base.stride(), dtype=torch.long, device=base.device)
    laid.copy_(places.view(base.shape))
    offset = int(view.storage_offset()) - int(base.storage_offset())
    taken = laid.as_strided(view.shape, view.stride(), laid.storage_offset() + offset).reshape(-1)
    source = torch.zeros_like(places)
    source[taken] = torch.arange(len(taken), device=base.device)
    is_part = torch.zeros_like(places, dtype=torch.bool)
    is_part[taken] = True

    def again(whole: Tensor, part: Tensor) -> Tensor:
        wide = part.reshape(-1)[source]
        return torch.where(is_part, wide, whole.reshape(-1)).reshape(whole.shape)

    return again
