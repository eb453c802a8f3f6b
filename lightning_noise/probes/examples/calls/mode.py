"""The interception of all calls of torch's functions."""

from collections.abc import Callable
from typing import Any

from torch import Size, Tensor
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from lightning_noise.probes.examples.calls.layouts import RULES
from lightning_noise.probes.examples.calls.operations import Operation, body_of, operation_of

Note = Callable[[Operation, Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], None]
# There is no other way to leave from the middle of the stack of modes.
_push: Callable[[TorchFunctionMode], None] = _push_mode
_pop: Callable[[], TorchFunctionMode] = _pop_mode


class Interception(TorchFunctionMode):
    """Shows each call to ``note`` after it was made; changes none.

    A function that is written in Python and not among the known operations is not shown: the
    calls inside are.
    """

    def __init__(self, note: Note) -> None:
        super().__init__()
        self._note = note
        self._operations: dict[Callable[..., Any], Operation] = {}
        self._bodies: dict[Callable[..., Any], Callable[..., Any]] = {}
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
        kwargs = kwargs or {}
        operation = self._operations.get(func)
        if operation is None:
            operation = self._learn(func)
        body = self._bodies.get(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs)
        kind = type(out)
        if kind is Tensor or (kind is not Size and _holds_tensors(operation, out)):
            self._note(operation, func, args, kwargs, out)
        return out

    def _learn(self, func: Callable[..., Any]) -> Operation:
        operation = operation_of(func)
        self._operations[func] = operation
        if operation.name not in RULES:
            body = body_of(func)
            if body is not None:
                self._bodies[func] = body
        return operation


def _holds_tensors(operation: Operation, out: Any) -> bool:
    return isinstance(out, (Tensor, tuple, list)) or operation.name == "setitem"
