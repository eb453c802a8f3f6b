"""Forward hooks that pair every layer's inputs with the gradient that later arrives at the output of the same call."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_noise.probes.examples.contribution import NotPerExample
from lightning_noise.probes.examples.inventory import Slot

# There is no public way to ask these three things. Where torch drops one, what follows stays right, but: the inputs of
# checkpointed layers are held; recomputed calls count as further uses; torch.func in a forward pass fails.
_hooks_in_force = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
_backward_pass = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # -1: none is on
_in_torch_func = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
See = Callable[[Slot, Tensor, "Kept"], None]


class Kept:
    """The inputs of one call until its output's gradient comes; they are held no longer than autograd holds them.

    Where hooks of saved tensors are in force they are packed as autograd packs its own: thrown away by checkpointing and
    computed again, moved away by offloading.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        hooks = _hooks_in_force(True)
        self._unpack: Callable[[Any], Tensor] | None = None
        self._inputs: list[Any] | None = list(inputs)
        self._versions = [x._version for x in inputs]
        if hooks is not None:
            pack, self._unpack = hooks
            with torch.no_grad():
                self._inputs = [pack(x.detach()) for x in inputs]

    def take(self) -> tuple[Tensor, ...] | None:
        """The inputs, once; ``None`` the second time: a second backward pass through the same graph.

        Raises:
            NotPerExample: an input was modified in place since (autograd may have had no need of it).
        """
        inputs, self._inputs = self._inputs, None
        if inputs is None:
            return None
        if self._unpack is not None:
            return tuple(self._unpack(x) for x in inputs)
        if [x._version for x in inputs] != self._versions:
            raise NotPerExample("its input was modified in place after the call")
        return tuple(inputs)


class Listener:
    """Watches the calls of the slots' layers.

    Args:
        slots: the layers.
        see: called in the backward pass with the slot, the gradient at the output of one of its calls, and the inputs kept.

    Reentrant checkpointing calls a layer first without a graph, which is passed over, then again inside the backward pass;
    the other kind calls it twice with a graph, of which only the first is walked. So each gradient belongs to its own call.
    What is saved in a call must not depend on anything that may change before it is computed again.
    """

    def __init__(self, slots: Sequence[Slot], see: See) -> None:
        self._slots = slots
        self._see = see
        self._called = False  # in a forward pass since the hooks are there
        self.listening = False
        self.calls: Counter[str] = Counter()  # by parameter

    def begin(self) -> None:
        """Calls count from now on as uses."""
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
            yield

    def _hook(self, slot: Slot) -> Callable[..., None]:
        without_inputs: frozenset[str] = getattr(slot.rule, "without_inputs", frozenset())
        needs_inputs = not without_inputs.issuperset(slot.names)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if _backward_pass() == -1:
                self._called = True
                if self.listening:
                    self.calls.update(slot.names.values())
            elif not self._called:
                return  # recomputation of a forward pass without our hooks: it must save no more than that did
            if not (isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled()):
                return
            if _in_torch_func():
                return  # inside of vmap and the like a tensor is not what it seems
            given = (*args, *kwargs.values()) if kwargs else args
            kept = Kept(tuple(x for x in given if isinstance(x, Tensor)) if needs_inputs else ())
            output.register_hook(lambda grad: self._see(slot, grad, kept))  # type: ignore[no-untyped-call]

        return hook

    def _lower(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Casts an input as autocast is about to: bit for bit the same, but autograd and we then keep one copy."""
        if not (args and isinstance(args[0], Tensor) and args[0].dtype == torch.float32):
            return None
        device = args[0].device.type
        if not torch.is_autocast_enabled(device):
            return None
        return (args[0].to(torch.get_autocast_dtype(device)), *args[1:])
