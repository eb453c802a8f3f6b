"""Tensors that follow from parameters and constants alone, and the way of gradients back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

Ints = tuple[int, ...]


class Place(NamedTuple):
    """How a derived tensor lies in its parameter, seen as one row of numbers.

    Args:
        size: of the derived tensor.
        stride: of the derived tensor in the parameter.
        offset: of its first number.
    """

    size: Ints
    stride: Ints
    offset: int


class Derived:
    """A parameter, or the result of a call with derived tensors and constants.

    Args:
        size: of the tensor.
        leaves: names of the parameters that it depends on.
        call: what gives it; ``None`` for a parameter.
        place: where it lies in the only parameter, if it holds nothing but numbers of it.
        narrow: what it is an expansion of, if it repeats the rows of a smaller one.
    """

    def __init__(
        self,
        size: Ints,
        leaves: frozenset[str],
        call: "Origin | None",
        place: Place | None = None,
        narrow: "Derived | None" = None,
    ) -> None:
        self.size = size
        self.leaves = leaves
        self.call = call
        self.place = place
        self.narrow = narrow

    @classmethod
    def of_parameter(cls, name: str, parameter: Tensor) -> "Derived":
        """The parameter itself."""
        size = tuple(parameter.shape)
        place = None
        if parameter.is_contiguous():
            place = Place(size, parameter.stride(), 0)
        return cls(size, frozenset({name}), None, place)

    @property
    def name(self) -> str | None:
        """Of the parameter that this is; ``None`` where it was computed."""
        return next(iter(self.leaves)) if self.call is None else None

    def replay(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """The same value from other tensors in place of the parameters."""
        return _replay(self, leaves, {})

    def pull(self, name: str, gradients: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Gradients with respect to one parameter.

        Args:
            name: of the parameter.
            gradients: with respect to this tensor, shape (n, \\*size).
            parameters: by name.

        Returns:
            Shape (n, \\*parameter.shape).
        """
        if self.call is None:
            return gradients
        with torch.enable_grad():
            leaves = {leaf: parameters[leaf].detach() for leaf in self.leaves}
            leaves = {leaf: _as_working(x, gradients.dtype) for leaf, x in leaves.items()}
            wanted = leaves[name].requires_grad_()
            value = self.replay(leaves)
            if gradients.is_complex() and not value.is_complex():
                gradients = gradients.real
            (pulled,) = torch.autograd.grad(
                value,
                wanted,
                gradients.to(value.dtype),
                is_grads_batched=True,
                allow_unused=True,
            )
        if pulled is None:
            return gradients.new_zeros(len(gradients), *parameters[name].shape)
        return pulled


class Origin(NamedTuple):
    """A call whose result is derived: its arguments hold ``Derived`` in place of such tensors.

    Args:
        function: of torch.
        args: by position.
        kwargs: by keyword.
        item: which of several results; ``None``: there is one.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    item: int | None = None


def _as_working(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype.to_real()) if tensor.is_floating_point() else tensor


def _replay(value: Derived, leaves: Mapping[str, Tensor], done: dict[int, Tensor]) -> Tensor:
    if value.name is not None:
        return leaves[value.name]
    if id(value) not in done:
        call = cast(Origin, value.call)
        args = [replaced(x, lambda part: _replay(part, leaves, done)) for x in call.args]
        kwargs: dict[str, Any] = {}
        for key, given in call.kwargs.items():
            kwargs[key] = replaced(given, lambda part: _replay(part, leaves, done))
        result = call.function(*args, **kwargs)
        done[id(value)] = result if call.item is None else result[call.item]
    return done[id(value)]


def replaced(given: Any, put: Callable[[Derived], Tensor]) -> Any:
    """An argument with tensors in place of what stands for them."""
    if isinstance(given, Derived):
        return put(given)
    if type(given) in (list, tuple):
        return type(given)([replaced(x, put) for x in given])
    return given
