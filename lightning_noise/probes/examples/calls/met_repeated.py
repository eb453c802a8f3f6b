"""Operations without a rule of their own: they are repeated in the backward pass, and derived."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting, Operand
from lightning_noise.probes.examples.calls.met_pointwise import summed_to
from lightning_noise.probes.examples.calls.own import Own, own_fold
from lightning_noise.probes.examples.calls.placed import check_held
from lightning_noise.probes.examples.calls.pointwise import RANDOM
from lightning_noise.probes.examples.calls.seen import Seen, filled, with_holes
from lightning_noise.probes.examples.contribution import Contribution, Dense, Form, NotPerExample
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]
Function = Callable[[list[Tensor]], Tensor]
LARGEST = 2**22  # numbers of a derived tensor whose gradients are computed example by example
# Operations on the last dimensions, with broadcasting over all others: a derived tensor can be
# repeated for the examples, so that one call gives the gradients of all of them.
BROADCASTING = {"scaled_dot_product_attention": 2, "cdist": 2, "matmul": 2}


class Place(NamedTuple):
    """How a derived tensor meets the batch.

    Args:
        own: where the examples lie in it, if it has numbers for every example.
        spread: what it is expanded to, so that it has.
    """

    own: Fold | None = None
    spread: torch.Size | None = None


class RepeatedMeeting(Meeting):
    """Any operation that treats the examples apart.

    Args:
        function: of the tensors in ``inputs`` and of the operands, in their order.
        folds: where the examples lie in each of the inputs; ``None``: it is a constant.
        places: of the operands, in their order.
    """

    op = "function"

    def __init__(
        self,
        *args: Any,
        function: Function,
        folds: tuple[Fold | None, ...],
        places: tuple[Place, ...],
    ) -> None:
        super().__init__(*args)
        self.function = function
        self.folds = folds
        self.places = places

    def arranged(self, grad: Tensor) -> Tensor:
        """Dimensions stay where they are in the output."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """From one repetition where every example has numbers of its own, else from one each."""
        grad = self.at.fold.back(grad, self.at.shape)
        given = [_working(x) for x in inputs]
        operands = [_working(operand.tensor) for operand in self.met.values()]
        found: dict[str, Contribution] = {}
        for number, (own, place) in enumerate(zip(self.met, self.places, strict=True)):
            if place.own is None and place.spread is None:
                found[own] = Repeated(self, number, given, operands, grad)
                continue
            wide = list(operands)
            if place.spread is not None:
                wide[number] = wide[number].expand(place.spread)
            slope = self.slope(number, given, wide, grad)
            found[own] = self._in_one(place, slope, operands[number].shape)
        return found

    def _in_one(self, place: Place, slope: Tensor, size: torch.Size) -> Contribution:
        if place.own is not None:
            return Own(slope, place.own)
        rank = slope.dim()
        fold = self.at.fold._replace(dim=rank - (len(self.at.shape) - self.at.fold.dim))
        return Dense(summed_to(fold.rows(slope), size))

    def slope(
        self, number: int, inputs: list[Tensor], operands: list[Tensor], grad: Tensor
    ) -> Tensor:
        """The gradient with respect to one of the operands."""
        with torch.enable_grad():
            given = [x.detach() for x in operands]
            wanted = given[number].requires_grad_()
            value = self.function([*inputs, *given])
            if value.shape != grad.shape:
                raise NotPerExample("its operation gives one example alone another shape")
            grad = grad.to(value.dtype)
            (found,) = torch.autograd.grad(value, wanted, grad, materialize_grads=True)
        return found


class Repeated(Contribution):
    """Gradients of one operand, example by example.

    Args:
        meeting: what is repeated.
        number: of the operand.
        inputs: of the call.
        operands: of the call, without their graphs.
        grad: at the output, as it lies there.
    """

    def __init__(
        self,
        meeting: RepeatedMeeting,
        number: int,
        inputs: list[Tensor],
        operands: list[Tensor],
        grad: Tensor,
    ) -> None:
        self.meeting = meeting
        self.number = number
        self.inputs = inputs
        self.operands = operands
        self.grad = grad
        self.examples = meeting.at.fold.examples
        self.numbers = operands[number].numel()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*operand.shape)."""
        found = [self._alone(example) for example in range(self.examples)[rows]]
        return torch.stack(found)

    def _alone(self, example: int) -> Tensor:
        meeting = self.meeting
        inputs = list(self.inputs)
        for n, fold in enumerate(meeting.folds):
            inputs[n] = _of_example(inputs[n], fold, example)
        operands = list(self.operands)
        for n, place in enumerate(meeting.places):
            operands[n] = _of_example(operands[n], place.own, example)
        grad = _of_example(self.grad, meeting.at.fold, example)
        return meeting.slope(self.number, inputs, operands, grad)

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """The gradients as they are."""
        check_held(self)
        return super().sketch(form, signs)

    def exact_is_cheap(self, sketches: int) -> bool:
        """There is no other way."""
        return True


def _of_example(tensor: Tensor, fold: Fold | None, example: int) -> Tensor:
    if fold is None:
        return tensor
    owners = fold.owner_of(tensor.shape[fold.dim], tensor.device)
    return tensor.index_select(fold.dim, (owners == example).nonzero().flatten())


def _working(tensor: Tensor) -> Tensor:
    return working(tensor) if tensor.is_floating_point() else tensor


def repeated(
    seen: Seen,
    at: Arrangement,
    parameters: Parameters,
    own: Mapping[int, Fold] | None = None,
) -> Meeting:
    """Any operation of which only the layout is known.

    Args:
        own: where the examples lie in derived tensors, by their numbers in ``seen.derived``.
    """
    dropout = seen.argument(4, "dropout_p", 0.0)
    drops = seen.name == "scaled_dot_product_attention" and dropout
    if seen.in_place or seen.name in RANDOM or drops:
        raise NotPerExample(f"it is an argument of {seen.name}, which cannot be repeated")
    operands: dict[str, Operand] = {}
    places: list[Place] = []
    for n, (x, derived) in enumerate(seen.derived):
        operands[f"operand {n}"] = Operand(x.detach(), derived)
        fold = (own or {}).get(n)
        places.append(Place(fold) if fold is not None else _place(seen, x, at))
    for operand, place in zip(operands.values(), places, strict=True):
        if place == Place() and operand.tensor.numel() > LARGEST:
            raise NotPerExample(f"it is too large for {seen.name}, which has no rule of its own")
    kept = [(x, fact) for x, fact in seen.facts if not isinstance(fact, Derived)]
    inputs = tuple(x for x, _ in kept)
    folds = tuple(fact if isinstance(fact, Fold) else None for _, fact in kept)
    function = _function(seen, [*inputs, *(x for x, _ in seen.derived)])
    return RepeatedMeeting(
        operands, inputs, at, parameters, function=function, folds=folds, places=tuple(places)
    )


def _place(seen: Seen, x: Tensor, at: Arrangement) -> Place:
    core = BROADCASTING.get(seen.name)
    if core is None or at.fold.dim >= len(at.shape) - core:
        return Place()
    lead = x.shape[:-core]
    own = own_fold(lead, at.fold, at.shape[:-core])
    if own is not None:
        return Place(own)
    wide = [*[1] * (len(at.shape) - core - len(lead)), *lead]
    wide[at.fold.dim] = at.shape[at.fold.dim]
    return Place(spread=torch.Size((*wide, *x.shape[-core:])))


def _function(seen: Seen, tensors: list[Tensor]) -> Function:
    args = with_holes(seen.args, tensors)
    kwargs = {key: with_holes(x, tensors) for key, x in seen.kwargs.items()}
    function, item = seen.function, seen.item
    single = len(seen.results) == 1

    def again(given: list[Tensor]) -> Tensor:
        named = {key: filled(x, given) for key, x in kwargs.items()}
        result: Any = function(*filled(args, given), **named)
        return result if isinstance(result, Tensor) and single else result[item]

    return again
