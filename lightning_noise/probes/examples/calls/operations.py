"""Which operation a function of torch is: its aliases have one name here."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

MODULES = ("torch.nn.functional", "torch.functional", "torch._tensor", "torch.autograd")
ALIASES = {
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "multiply": "mul",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "clip": "clamp",
    "arctan": "atan",
    "negative": "neg",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "invert": "bitwise_not",
    "take_along_dim": "gather",
}
SWAPPED = {"rsub": "sub", "rdiv": "div", "rtruediv": "div", "rmatmul": "matmul"}
IN_PLACE = {"iadd", "isub", "imul", "idiv", "itruediv", "ipow", "iand", "ior", "ixor"}
REFLECTED = {"radd": "add", "rmul": "mul", "rpow": "pow", "rfloordiv": "floordiv"}
WITHOUT = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class Operation(NamedTuple):
    """A function of torch.

    Args:
        name: of the operation.
        swapped: whether its first two arguments are in the other order.
        in_place: whether it changes its first argument.
    """

    name: str
    swapped: bool = False
    in_place: bool = False


def operation_of(function: Callable[..., Any]) -> Operation:
    """What a function does.

    >>> import torch
    >>> operation_of(torch.Tensor.__rsub__), operation_of(torch.Tensor.add_).in_place
    (Operation(name='sub', swapped=True, in_place=False), True)
    """
    name = getattr(function, "__name__", "")
    if name in ("__get__", "__set__"):
        owner = getattr(function, "__self__", None)
        return Operation(f"{name}{getattr(owner, '__name__', '')}")
    dunder = name.startswith("__")
    in_place = name.endswith("_") and not dunder
    name = name.strip("_")
    if dunder and name in SWAPPED:
        return Operation(SWAPPED[name], swapped=True)
    if dunder and name in IN_PLACE:
        name, in_place = name[1:], True
    elif dunder:
        name = REFLECTED.get(name, name)
    return Operation(ALIASES.get(name, name), False, in_place)


@functools.cache
def body_of(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function written in Python that makes its calls even where it would be intercepted whole.

    Such functions of torch ask first whether somebody intercepts them. The copy asks nobody, so
    that the calls inside are seen; it does the same work. ``None``: the function is none of these.
    """
    if not isinstance(function, types.FunctionType) or function.__module__ not in MODULES:
        return None
    # globals at the time of the first call: a function that is replaced later is not seen
    names = {**function.__globals__, **dict.fromkeys(WITHOUT, _nobody)}
    body = types.FunctionType(
        function.__code__,
        names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


def _nobody(*args: Any) -> bool:
    return False
