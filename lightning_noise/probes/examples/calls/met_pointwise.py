"""Derived tensors that meet the batch number by number: scales, shifts, tables of positions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting, Operand
from lightning_noise.probes.examples.calls.operands import derived_among
from lightning_noise.probes.examples.calls.own import Own, own_fold
from lightning_noise.probes.examples.calls.pointwise import POINTWISE, RANDOM
from lightning_noise.probes.examples.calls.seen import Seen, filled, with_holes
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]


def summed_to(rows: Tensor, size: torch.Size) -> Tensor:
    """(B, \\*broadcast size) summed to (B, \\*size).

    >>> summed_to(torch.ones(2, 5, 3), torch.Size([1, 3])).shape
    torch.Size([2, 1, 3])
    """
    extra = rows.dim() - 1 - len(size)
    if extra:
        rows = rows.flatten(1, extra).sum(1)
    ones = [n + 1 for n, wide in enumerate(size) if wide == 1 and rows.shape[n + 1] != 1]
    return rows.sum(ones, keepdim=True) if ones else rows


def check_same_for_all(size: torch.Size, fold: Fold, rank: int, name: str) -> None:
    """Requires that a derived tensor has no numbers of its own for every example.

    Raises:
        NotPerExample: it has.
    """
    dim = fold.dim - (rank - len(size))
    if dim >= 0 and size[dim] != 1:
        raise NotPerExample(f"it has numbers for every example in {name}")


def _summed(whole: Tensor, size: torch.Size) -> Tensor:
    """A gradient summed to a size, over what it is repeated along."""
    return summed_to(whole.unsqueeze(0), size)[0]


def part_of_sum(whole: Tensor, size: torch.Size, at: Arrangement) -> Contribution:
    """Of a tensor that was broadcast, from the gradient where it was broadcast to.

    Args:
        whole: the gradient, as it lies there.
        size: of the tensor.
        at: where the examples lie in the gradient.
    """
    each = own_fold(size, at.fold, at.shape)
    if each is not None:
        return Own(_summed(whole, size), each)
    return Dense(summed_to(at.fold.rows(whole), size))


class SumMeeting(Meeting):
    """a + b, a − b, with broadcasting.

    Args:
        factors: of each operand, by name.
    """

    op = "sum"

    def __init__(self, *args: Any, factors: Mapping[str, float]) -> None:
        super().__init__(*args)
        self.factors = factors
        self.without_inputs = frozenset(factors)  # type: ignore[misc]  # a class's own elsewhere

    def arranged(self, grad: Tensor) -> Tensor:
        """Dimensions stay where broadcasting needs them."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The gradient, summed over what an operand is repeated along."""
        return {own: self._part(own, grad) for own in self.met}

    def _part(self, own: str, grad: Tensor) -> Contribution:
        size, factor = self.met[own].tensor.shape, self.factors[own]
        if own_fold(size, self.at.fold, self.at.shape) is not None:
            whole = working(self.at.fold.back(grad, self.at.shape))
            return part_of_sum(whole * factor, size, self.at)

        def built() -> Tensor:
            found = summed_to(working(grad), size)
            return found if factor == 1 else found * factor

        return Dense(built)


class PointwiseMeeting(Meeting):
    """Any function of each number: its slope follows from the function.

    Args:
        function: of the tensors in ``inputs``, then of the operands in their order.
        sizes: shapes that broadcast to the output's, by operand.
    """

    op = "pointwise"

    def __init__(
        self,
        *args: Any,
        function: Callable[[tuple[Tensor, ...], list[Tensor]], Tensor],
        sizes: Mapping[str, torch.Size],
    ) -> None:
        super().__init__(*args)
        self.function = function
        self.sizes = sizes

    def arranged(self, grad: Tensor) -> Tensor:
        """Dimensions stay where broadcasting needs them."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """The slope at each number, summed over what an operand is repeated along."""
        grad = working(self.at.fold.back(grad, self.at.shape))
        full = [
            working(operand.tensor).reshape(self.sizes[own]).expand(self.at.shape)
            for own, operand in self.met.items()
        ]
        slopes = self._slopes(inputs, full, grad)
        found: dict[str, Contribution] = {}
        for own, slope in zip(self.met, slopes, strict=True):
            found[own] = part_of_sum(slope, self.sizes[own], self.at)
        return found

    def _slopes(
        self,
        inputs: tuple[Tensor, ...],
        full: list[Tensor],
        grad: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in full]
            value = self.function(inputs, leaves)
            return torch.autograd.grad(value, leaves, grad.to(value.dtype), materialize_grads=True)


class ProductMeeting(PointwiseMeeting):
    """a · b with one derived factor."""

    op = "product"

    def _slopes(
        self,
        inputs: tuple[Tensor, ...],
        full: list[Tensor],
        grad: Tensor,
    ) -> tuple[Tensor, ...]:
        return (grad * working(inputs[0]),)


def _all_derived(seen: Seen) -> dict[str, Operand]:
    given = {f"operand {n}": x for n, (x, _) in enumerate(seen.derived)}
    return derived_among(seen, given)


def added(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``a + b``, ``a - b``: no input is needed."""
    operands = _all_derived(seen)
    alpha = float(seen.kwargs.get("alpha", 1))
    second = -alpha if seen.name == "sub" else alpha
    factors: dict[str, float] = {}
    for own, (tensor, _) in zip(operands, seen.derived, strict=True):
        factors[own] = 1.0 if tensor is seen.argument(0, "input") else second
    return SumMeeting(operands, (), at, parameters, factors=factors)


def spread(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``expand`` and the like to the size of the batch: the batch begins here."""
    operands = derived_among(seen, {"operand": seen.args[0]})
    return SumMeeting(operands, (), at, parameters, factors={"operand": 1.0})


def multiplied(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``a * b``."""
    operands = _all_derived(seen)
    others = [x for x, _ in seen.batch]
    is_complex = any(x.is_complex() for x, _ in seen.facts)
    if len(operands) != 1 or len(others) != 1 or is_complex:
        return pointwise(seen, at, parameters)
    return ProductMeeting(
        operands,
        (others[0],),
        at,
        parameters,
        function=_never,
        sizes={own: operand.tensor.shape for own, operand in operands.items()},
    )


def _never(inputs: tuple[Tensor, ...], full: list[Tensor]) -> Tensor:
    raise NotImplementedError  # the slope of a product is the other factor


def pointwise(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """Any function of each number by itself, which is repeated; all other tensors are kept."""
    if seen.name in RANDOM or seen.in_place:
        raise NotPerExample(f"it is an argument of {seen.name}, which cannot be repeated")
    operands = _all_derived(seen)
    derived = [x for x, _ in seen.derived]
    kept = tuple(x for x, fact in seen.facts if not isinstance(fact, Derived))
    function = seen.function
    args = with_holes(seen.args, [*kept, *derived])
    kwargs = {key: with_holes(x, [*kept, *derived]) for key, x in seen.kwargs.items()}

    def again(inputs: tuple[Tensor, ...], full: list[Tensor]) -> Tensor:
        tensors = [*inputs, *full]
        named = {key: filled(x, tensors) for key, x in kwargs.items()}
        value: Tensor = function(*filled(args, tensors), **named)
        return value

    return PointwiseMeeting(
        operands,
        kept,
        at,
        parameters,
        function=again,
        sizes={own: operand.tensor.shape for own, operand in operands.items()},
    )


def prelu(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.prelu``: one slope, or one per channel along dimension 1."""
    x, weight = seen.argument(0, "input"), seen.argument(1, "weight")
    operands = derived_among(seen, {"weight": weight})
    size = torch.Size((1, -1, *[1] * (x.dim() - 2)))
    per_channel = x.dim() > 1 and weight.numel() > 1
    if per_channel:
        size = weight.reshape(size).shape
    check_same_for_all(size if per_channel else weight.shape, at.fold, x.dim(), "prelu")
    return PointwiseMeeting(
        operands,
        (x,),
        at,
        parameters,
        function=_prelu,
        sizes={"weight": size if per_channel else weight.shape},
    )


def _prelu(inputs: tuple[Tensor, ...], full: list[Tensor]) -> Tensor:
    (x,) = inputs
    return torch.where(x > 0, x, x * full[0])


MEETINGS = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys(("add", "sub"), added),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to", "repeat", "tile"), spread),
    "mul": multiplied,
    "prelu": prelu,
}
