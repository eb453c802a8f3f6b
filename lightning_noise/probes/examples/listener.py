"""Forward hooks that pair a call's inputs with the gradient that later arrives at its output."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lightning_noise.probes.examples.contribution import NotPerExample
from lightning_noise.probes.examples.hooks import ModuleHook
from lightning_noise.probes.examples.inventory import Slot
from lightning_noise.probes.examples.output import Layout, Source, source_of

# There is no public way to ask these three things. Where torch drops one, what follows stays right,
# but: the inputs of checkpointed layers are held; recomputed calls count as further uses;
# torch.func in a forward pass fails.
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
_backward_pass = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # -1: none is on
_in_torch_func = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
See = Callable[[Slot, Tensor, "Kept"], None]


class Kept:
    """The inputs of one call until its output's gradient comes.

    They are held no longer than autograd holds them. Where hooks of saved tensors are active they
    are packed as autograd packs its own: thrown away by checkpointing and computed again, moved
    away by offloading.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        hooks = _saving_hooks(True)
        self._unpack: Callable[[Any], Tensor] | None = None
        self._inputs: list[Any] | None = list(inputs)
        self._versions = [x._version for x in inputs]
        if hooks is not None:
            pack, self._unpack = hooks
            with torch.no_grad():
                self._inputs = [pack(x.detach()) for x in inputs]

    def take(self) -> tuple[Tensor, ...] | None:
        """The inputs, once; ``None`` at a second backward pass through the same graph.

        Raises:
            NotPerExample: an input was modified in place since (autograd may not need it).
        """
        inputs, self._inputs = self._inputs, None
        if inputs is None:
            return None
        if self._unpack is not None:
            return tuple(self._unpack(x) for x in inputs)
        if [x._version for x in inputs] != self._versions:
            raise NotPerExample("its input was modified in place after the call")
        return tuple(inputs)


class Call(NamedTuple):
    """Where the output of one call lies in the graph; the output itself is not held.

    Args:
        slot: the layer.
        edge: of the tensor whose gradient is taken.
        layout: how the output lies in that tensor.
        recomputed: whether hooks of saved tensors were active, so that the call may be repeated.
    """

    slot: Slot
    edge: GradientEdge
    layout: Layout
    recomputed: bool


Inspect = Callable[[Call, Tensor], None]  # gets the gradient at the call's output


class Listener:
    """Watches the calls of the slots' layers.

    Args:
        slots: the layers.
        see: called in the backward pass with the slot, the gradient at the output of one of its
            calls, and the inputs kept.

    Attributes:
        calls: of the forward pass in progress by parameter, however they were made.

    Reentrant checkpointing calls a layer first without a graph, which is skipped, then again inside
    the backward pass; the other kind calls it twice with a graph, of which only the first is
    walked. So each gradient belongs to its own call. What is saved in a call must not depend on
    anything that may change before it is computed again.
    """

    def __init__(self, slots: Sequence[Slot], see: See) -> None:
        self._see = see
        self._inspect: Inspect | None = None
        self._called = False  # in a forward pass since the hooks are there
        self._recording = False
        self._hooks = ExitStack()
        self._hooked = False
        self._layer_hooks = [(slot, ModuleHook(self._hook(slot))) for slot in slots]
        self._lower = ModuleHook(lower)
        self.listening = False
        self.calls: Counter[str] = Counter()
        self._recorded: dict[int, Call] = {}
        self._serial = 0

    def begin(self, *, record: bool = False) -> None:
        """Hooks the layers, unless they are hooked. Calls count from now on as uses."""
        self.calls.clear()
        self._recorded = {}
        self.listening = True
        self._recording = record
        if not self._hooked:
            self._called = False
            self._hooked = True
            self._hook_layers()

    def end(self) -> None:
        """Later calls are not ours."""
        self.listening = self._recording = False
        self._recorded = {}

    def rest(self) -> None:
        """Removes the hooks until the next :meth:`begin`."""
        self.end()
        self._hooked = False
        self._hooks.close()

    @property
    def recorded(self) -> list[Call]:
        """Calls with a graph, in order, where :meth:`begin` was told to record them."""
        return list(self._recorded.values())

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Leaves no hook behind after the context."""
        try:
            yield
        finally:
            self.rest()

    @contextmanager
    def inspecting(self, inspect: Inspect) -> Iterator[None]:
        """Inside the context gradients at the outputs of recorded calls go to ``inspect`` alone."""
        self._inspect = inspect
        try:
            yield
        finally:
            self._inspect = None

    def _hook_layers(self) -> None:
        for slot, hook in self._layer_hooks:
            # first of all hooks: what a user's hook makes of the output is not the layer's output
            handle = slot.module.register_forward_hook(hook, prepend=True, with_kwargs=True)
            self._hooks.callback(handle.remove)
            if slot.rule.lowered:
                self._hooks.callback(slot.module.register_forward_pre_hook(self._lower).remove)

    def _hook(self, slot: Slot) -> Callable[..., None]:
        needs_inputs = not slot.rule.without_inputs.issuperset(slot.names)

        def hook(
            module: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            output: Any,
        ) -> None:
            if _backward_pass() == -1:
                self._called = True
                if self.listening:
                    self.calls.update(slot.names.values())
            elif not self._called:
                # a forward pass without our hooks is computed again: it must save no more than then
                return
            has_graph = isinstance(output, Tensor) and output.requires_grad
            if not (has_graph and torch.is_grad_enabled()):
                return
            if _in_torch_func():
                return  # inside of vmap and the like a tensor is not what it seems
            given = (*args, *kwargs.values()) if kwargs else args
            tensors = tuple(x for x in given if isinstance(x, Tensor))
            kept = Kept(tensors if needs_inputs else ())
            self._await_gradient(slot, source_of(output, tensors), kept)

        return hook

    def _await_gradient(self, slot: Slot, source: Source, kept: Kept) -> None:
        layout = source.layout
        self._serial += 1
        serial = self._serial  # not the call: it holds a node of the graph, which holds this hook
        if self._recording and _backward_pass() == -1:
            edge = get_gradient_edge(source.tensor)
            self._recorded[serial] = Call(slot, edge, layout, _saving_hooks(True) is not None)

        def arrived(grad: Tensor) -> None:
            if self._inspect is None:
                self._see(slot, layout.at_output(grad), kept)
            elif serial in self._recorded:
                self._inspect(self._recorded[serial], layout.at_output(grad))

        source.tensor.register_hook(arrived)


def lower(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Casts an input as autocast is about to: the same bits, but autograd and we keep one copy."""
    if not (args and isinstance(args[0], Tensor) and args[0].dtype == torch.float32):
        return None
    device = args[0].device.type
    if not torch.is_autocast_enabled(device):
        return None
    return (args[0].to(torch.get_autocast_dtype(device)), *args[1:])
