"""The interception of all calls of torch's functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from lightning_noise.probes.examples.calls.layouts import RULES
from lightning_noise.probes.examples.calls.operations import Operation, body_of, operation_of

Note = Callable[[Operation, Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], None]
# There is no other way to leave from the middle of the stack of modes.
_push: Callable[[TorchFunctionMode], None] = _push_mode
_pop: Callable[[], TorchFunctionMode] = _pop_mode
# Most calls only ask for these: attributes of tensors, and checks of arguments.
WITHOUT_TENSORS = frozenset(
    {torch.Size, bool, int, float, str, torch.dtype, torch.device, torch.layout, type(None)}
)


class Known(NamedTuple):
    """What is known of a function, looked up once per call.

    Args:
        operation: which it is.
        body: what is called instead, so that the calls inside are seen; ``None``: it is shown.
        returns: whether what it does is in its result alone.
    """

    operation: Operation
    body: Callable[..., Any] | None
    returns: bool


class Interception(TorchFunctionMode):
    """Shows each call to ``note`` after it was made; changes none.

    A function that is written in Python and not among the known operations is not shown: the
    calls inside are.
    """

    def __init__(self, note: Note) -> None:
        super().__init__()
        self._note = note
        self._known: dict[Callable[..., Any], Known] = {}
        self.on = False

    def enter(self) -> None:
        """Intercepts from now on."""
        if not self.on:
            self.on = True
            _push(self)

    def remove(self) -> None:
        """Intercepts no longer, whatever was put on top since."""
        if not self.on:
            return
        self.on = False
        above: list[TorchFunctionMode] = []
        while (mode := _pop()) is not self:
            above.append(mode)
        for mode in reversed(above):
            _push(mode)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Makes the call. In here the mode itself is off."""
        known = self._known.get(func)
        if known is None:
            known = self._learn(func)
        kwargs = kwargs or {}
        operation, body, returns = known
        if body is not None:
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs) if kwargs else func(*args)
        kind = type(out)
        if kind is Tensor or not returns or (kind not in WITHOUT_TENSORS and _holds_tensors(out)):
            self._note(operation, func, args, kwargs, out)
        return out

    def _learn(self, func: Callable[..., Any]) -> Known:
        operation = operation_of(func)
        body = None
        if operation.name not in RULES:
            body = body_of(func)
        known = Known(operation, body, returns=operation.name != "setitem")
        self._known[func] = known
        return known


def _holds_tensors(out: Any) -> bool:
    return isinstance(out, (Tensor, tuple, list))
