"""How a call derives tensors from parameters, so that it can be repeated and led back."""

from typing import Any

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
