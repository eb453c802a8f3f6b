"""Forward hooks that pair every layer's inputs with the gradient that later arrives at the output of the same call."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_noise.probes.examples.contribution import NotPerExample
from lightning_noise.probes.examples.inventory import Slot

See = Callable[[Slot, Tensor, "Kept"], None]


class _Keep(torch.autograd.Function):
    """Saves tensors the way autograd saves its own, through whatever hooks are in force: checkpointing, offloading."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return token.clone()


class Kept:
    """The inputs of one call until its output's gradient comes; they are held no longer than autograd holds them."""

    def __init__(self, token: Tensor, inputs: tuple[Tensor, ...]) -> None:
        self._node = _Keep.apply(token, *(x.detach() for x in inputs)).grad_fn if inputs else None  # type: ignore[no-untyped-call]
        self._taken = False

    def take(self) -> tuple[Tensor, ...] | None:
        """The inputs, once; ``None`` the second time: a second backward pass through the same graph.

        Raises:
            NotPerExample: an input was modified in place since (autograd may have had no need of it).
        """
        if self._taken:
            return None
        node, self._node, self._taken = self._node, None, True
        try:
            return node.saved_tensors if node is not None else ()
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise NotPerExample("its input was modified in place after the call") from error


class Listener:
    """Watches the calls of the slots' layers.

    Args:
        slots: the layers.
        see: called in the backward pass with the slot, the gradient at the output of one of its calls, and the inputs kept.

    Reentrant checkpointing calls a layer first without a graph, which is passed over, then again inside the backward pass;
    the other kind calls it twice with a graph, of which only the first is walked. So each gradient belongs to its own call.
    """

    def __init__(self, slots: Sequence[Slot], see: See) -> None:
        self._slots = slots
        self._see = see
        self._token = torch.zeros((), requires_grad=True)
        self.listening = False
        self.calls: Counter[str] = Counter()  # by parameter

    def begin(self) -> None:
        """Forward passes count from now on."""
        self.calls.clear()
        self.listening = True

    def end(self) -> None:
        """Later calls are not ours."""
        self.listening = False

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Hooks every layer inside the context."""
        with ExitStack() as stack:
            for slot in self._slots:
                # first of all hooks: what a user's hook makes of the output is not the layer's output
                handle = slot.module.register_forward_hook(self._hook(slot), prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
                if getattr(slot.rule, "lowered", False):
                    stack.callback(slot.module.register_forward_pre_hook(self._lower).remove)
            try:
                yield
            finally:
                self.end()

    def _hook(self, slot: Slot) -> Callable[..., None]:
        without_inputs: frozenset[str] = getattr(slot.rule, "without_inputs", frozenset())
        needs_inputs = not without_inputs.issuperset(slot.names)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not self.listening:
                return
            # recomputation calls layers again, which are no further uses; as torch.utils.checkpoint, for want of a public way
            if torch._C._current_graph_task_id() == -1:
                self.calls.update(slot.names.values())
            if not (isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled()):
                return
            inputs = tuple(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)) if needs_inputs else ()
            kept = Kept(self._token, inputs)
            output.register_hook(lambda grad: self._see(slot, grad, kept))  # type: ignore[no-untyped-call]

        return hook

    def _lower(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Casts an input as autocast is about to: bit for bit the same, but autograd and we then keep one copy."""
        if not (self.listening and args and isinstance(args[0], Tensor) and args[0].dtype == torch.float32):
            return None
        device = args[0].device.type
        if not torch.is_autocast_enabled(device):
            return None
        return (args[0].to(torch.get_autocast_dtype(device)), *args[1:])
