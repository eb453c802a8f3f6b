"""Operations along some dimensions, of which the examples' must not be one."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.names import names
from lightning_noise.probes.examples.calls.pointwise import pointwise
from lightning_noise.probes.examples.calls.seen import Seen

Rule = Callable[[Seen, Tensor], "Fold | None"]


def dims_of(given: Any, rank: int) -> tuple[int, ...] | None:
    """Dimensions counted from the front; ``None``: all, or not known."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = (given,)
    if type(given) not in (list, tuple) or not given:
        return None
    if not all(isinstance(dim, int) for dim in given):
        return None
    return tuple(dim % rank for dim in given)


def _dims(seen: Seen, position: int, default: Any) -> Any:
    given = seen.argument(position, "dim", None)
    if given is None:
        given = seen.kwargs.get("axis", seen.kwargs.get("dims", default))
    if isinstance(given, int) and len(seen.args) > position + 1:
        rest = seen.args[position:]  # x.sum(1, 2) is no call of torch, x.flip(1, 2) is one
        if all(type(dim) is int for dim in rest):
            return rest
    return given


def reduction(position: int = 1) -> Rule:
    """Dimensions of the argument at ``position`` go, or are kept with one number."""

    def rule(seen: Seen, out: Tensor) -> Fold | None:
        if isinstance(seen.argument(1, "other"), Tensor):
            return pointwise(seen, out)  # the larger of two tensors
        ((x, fold),) = seen.batch
        dims = dims_of(_dims(seen, position, None), x.dim())
        if dims is None or fold.dim in dims:
            return None
        if out.dim() == x.dim():
            return fold
        return fold._replace(dim=fold.dim - sum(dim < fold.dim for dim in dims))

    return rule


def along(position: int = 1, default: int | None = None) -> Rule:
    """The shape stays, but numbers along the dimensions at ``position`` depend on each other."""

    def rule(seen: Seen, out: Tensor) -> Fold | None:
        ((x, fold),) = seen.batch
        dims = dims_of(_dims(seen, position, default), x.dim())
        if dims is None or fold.dim in dims or out.dim() != x.dim():
            return None
        return fold

    return rule


def last_two(seen: Seen, out: Tensor) -> Fold | None:
    """Matrices by themselves."""
    ((x, fold),) = seen.batch
    return fold if fold.dim < x.dim() - 2 and out.dim() == x.dim() else None


REDUCED = names(
    """
    all amax amin any argmax argmin count_nonzero logsumexp max mean median min nanmean
    nansum prod std std_mean sum var var_mean
    """
)
REDUCTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(REDUCED, reduction()),
    "norm": reduction(2),
    "vector_norm": reduction(2),
    "linalg_vector_norm": reduction(2),
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "logcumsumexp"), along()),
    **dict.fromkeys(("cumsum", "cumprod", "flip"), along()),
    **dict.fromkeys(("sort", "argsort", "cummax", "cummin"), along(default=-1)),
    "glu": along(default=-1),
    "roll": along(2),
    "tril": last_two,
    "triu": last_two,
}
