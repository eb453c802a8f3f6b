"""Forward hooks that pair a call's inputs with the gradient that later arrives at its output."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.contribution import NotPerExample
from lightning_noise.probes.examples.hooks import ModuleHook
from lightning_noise.probes.examples.inventory import Slot
from lightning_noise.probes.examples.output import Layout, Source, source_of

# torch has no public functions for these three. If it drops one of them, results stay right, but
# the inputs of checkpointed layers are kept, recomputed calls count as further uses, and torch.func
# in a forward pass fails.
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
_backward_pass = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # -1: outside
_in_torch_func = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_version = attrgetter("_version")  # of a tensor: counts its changes in place
See = Callable[[Slot, Tensor, "Kept"], None]


def in_backward_pass() -> bool:
    """Whether a backward pass is under way, as where checkpointing computes something again."""
    return bool(_backward_pass() != -1)


def in_torch_func() -> bool:
    """Whether a transform of torch.func is under way."""
    return bool(_in_torch_func())


def packs_what_is_saved() -> bool:
    """Whether hooks on saved tensors are active, as under checkpointing."""
    return _saving_hooks(True) is not None


class Kept:
    """The inputs of one call, kept until the gradient of its output arrives.

    They are kept no longer than autograd keeps them. Where hooks on saved tensors are active, they
    are packed as autograd packs its own: checkpointing drops and recomputes them, offloading moves
    them.

    Attributes:
        is_packed: whether hooks on saved tensors were active.
        waits: whether a gradient has arrived, and waits for the end of the backward pass.
    """

    __slots__ = ("_inputs", "_unpack", "_versions", "is_packed", "waits")

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        hooks = _saving_hooks(True)
        self.is_packed = hooks is not None
        self.waits = False
        self._unpack: Callable[[Any], Tensor] | None = None
        self._inputs: tuple[Any, ...] | None = inputs
        self._versions = sum(map(_version, inputs))  # each only grows
        if hooks is not None:
            pack, self._unpack = hooks
            with torch.no_grad():
                self._inputs = tuple(pack(x.detach()) for x in inputs)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The inputs as they are held, not packed; none if they were taken."""
        return self._inputs or ()

    @property
    def elements(self) -> int:
        """Of all inputs, unless they are packed."""
        return sum(x.numel() for x in self.held)

    def take(self) -> tuple[Tensor, ...] | None:
        """The inputs, once; ``None`` in a second backward pass through the same graph.

        Raises:
            NotPerExample: an input was modified in place after the call (autograd may not need it).
        """
        try:
            return self.read()
        finally:
            self.forget()

    def forget(self) -> None:
        """The inputs are taken."""
        self._inputs = None

    def read(self) -> tuple[Tensor, ...] | None:
        """As :meth:`take`, which may follow."""
        inputs = self._inputs
        if inputs is None:
            return None
        if self._unpack is not None:
            return tuple(map(self._unpack, inputs))
        with torch._C.DisableTorchFunction():
            versions = sum(map(_version, inputs))
        if versions != self._versions:
            raise NotPerExample("its input was modified in place after the call")
        return inputs


class Call(NamedTuple):
    """Where the output of one call lies in the graph; the output itself is not held.

    Args:
        slot: the layer.
        edge: of the tensor whose gradient is taken.
        layout: how the output lies in that tensor.
        recomputed: whether hooks on saved tensors were active, so that the call may be repeated.
    """

    slot: Slot
    edge: GradientEdge
    layout: Layout
    recomputed: bool


Inspect = Callable[[Call, Tensor], None]  # gets the gradient at the call's output


class Arrival:
    """The hook that waits for the gradient at the output of one call.

    It is one object, where a closure would be several: what lives until the backward pass costs
    garbage collection.

    Args:
        take: what to call with this object and the gradient.
        slot: the layer.
        kept: the inputs of the call.
        layout: how the output lies in the tensor with the hook; ``None``: it is that tensor.
        serial: of the call. The call itself holds a node of the graph, which holds this hook.
    """

    __slots__ = ("_take", "kept", "layout", "serial", "slot")

    def __init__(
        self,
        take: Callable[["Arrival", Tensor], None],
        slot: Slot,
        kept: Kept,
        layout: Layout | None,
        serial: int,
    ) -> None:
        self._take = take
        self.slot = slot
        self.kept = kept
        self.layout = layout
        self.serial = serial

    def __call__(self, grad: Tensor) -> None:
        self._take(self, grad)

    def at_output(self, grad: Tensor) -> Tensor:
        """The gradient at the output of the call, from that at the tensor with the hook."""
        if self.layout is None:
            return grad
        return self.layout.at_output(grad)


class Listener:
    """Watches the calls of the slots' layers.

    Args:
        slots: the layers.
        see: called in the backward pass with the slot, the gradient at the output of one of its
            calls, and the inputs kept.

    Attributes:
        listening: whether calls are being noted.
        calls: how many calls of the forward pass use each parameter, however they were made.
        misplaced: layers with calls whose examples are known to lie elsewhere than along
            dimension 0, by their names.

    Reentrant checkpointing calls a layer first without a graph, which is skipped, then again inside
    the backward pass. The other kind calls it twice with a graph, and only the first graph has a
    backward pass. So each gradient belongs to its own call. What is saved in a call must not depend
    on anything that may change before the call is recomputed.
    """

    def __init__(self, slots: Sequence[Slot], see: See) -> None:
        self._see = see
        self._inspect: Inspect | None = None
        self._called = False  # in a forward pass since the layers were hooked
        self._recording = False
        self._handles: list[RemovableHandle] = []
        self._hooked = False
        self._layer_hooks = [(slot, ModuleHook(self._hook(slot))) for slot in slots]
        self._lower = ModuleHook(lower)
        self._take = self._arrived  # one bound method for all calls
        self.listening = False
        self.calls: Counter[str] = Counter()
        self.misplaced: dict[str, Slot] = {}
        self._where: Callable[[Tensor], Fold | None] = _nowhere
        self._recorded: dict[int, Call] = {}
        self._serial = 0

    def begin(self, *, record: bool = False) -> None:
        """Hooks the layers, unless they are hooked. From now on calls count as uses."""
        self.calls.clear()
        self.misplaced.clear()
        self._recorded = {}
        self.listening = True
        self._recording = record
        if not self._hooked:
            self._called = False
            self._hooked = True
            self._hook_layers()

    def end(self) -> None:
        """Later calls are not noted."""
        self.listening = False
        self._recording = False
        self._recorded = {}

    def rest(self) -> None:
        """Removes the hooks until the next :meth:`begin`."""
        self.end()
        self._hooked = False
        while self._handles:
            self._handles.pop().remove()

    @property
    def recorded(self) -> list[Call]:
        """Calls with a graph, in order, if :meth:`begin` was called with ``record``."""
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
        """Inside the context, only ``inspect`` gets the gradients at outputs of recorded calls."""
        self._inspect = inspect
        try:
            yield
        finally:
            self._inspect = None

    def ask(self, where: Callable[[Tensor], Fold | None]) -> None:
        """Names who knows where the examples lie in an output, if not along dimension 0."""
        self._where = where

    def follow(self, slot: Slot, source: Source, inputs: tuple[Tensor, ...]) -> None:
        """Follows the output of a call that no module made, until its gradient comes."""
        if not in_backward_pass():
            self._called = True
            if self.listening:
                self.calls.update(slot.names.values())
        elif not self._called:
            return
        if torch.is_grad_enabled() and not _in_torch_func():
            self._await_gradient(slot, source.tensor, source.layout, Kept(inputs))

    def _hook_layers(self) -> None:
        for slot, hook in self._layer_hooks:
            # first of all hooks: what a user's hook makes of the output is not the layer's output
            handle = slot.module.register_forward_hook(hook, prepend=True, with_kwargs=True)
            self._handles.append(handle)
            if slot.rule.lowered:
                self._handles.append(slot.module.register_forward_pre_hook(self._lower))

    def _hook(self, slot: Slot) -> Callable[..., None]:
        needs_inputs = not slot.rule.without_inputs.issuperset(slot.names)
        names = tuple(slot.names.values())

        def hook(
            module: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            output: Any,
        ) -> None:
            if _backward_pass() == -1:
                self._called = True
                if self.listening:
                    for name in names:
                        self.calls[name] += 1
            elif not self._called:
                # A forward pass without these hooks is recomputed: it must save what it saved then.
                return
            if not isinstance(output, Tensor):
                return
            fold = self._where(output)
            if fold is not None:
                self.misplaced[slot.layer] = slot
            if not output.requires_grad or not torch.is_grad_enabled():
                return
            if _in_torch_func():
                return  # inside vmap and the like a tensor is not what it seems
            given = args
            if kwargs:
                given = (*args, *kwargs.values())
            tensors = tuple(x for x in given if isinstance(x, Tensor))
            kept_inputs = tensors
            if not needs_inputs:
                kept_inputs = ()
            kept = Kept(kept_inputs)
            if fold is None and output._base is None and not self._recording:
                self._await_gradient(slot, output, None, kept)  # as below, in less time
                return
            source = source_of(output, tensors)
            layout = source.layout
            if fold is not None:
                layout = layout._replace(fold=fold)
            self._await_gradient(slot, source.tensor, layout, kept)

        return _unseen(hook)

    def _await_gradient(
        self,
        slot: Slot,
        tensor: Tensor,
        layout: Layout | None,
        kept: Kept,
    ) -> None:
        self._serial += 1
        if self._recording and layout is not None and _backward_pass() == -1:
            edge = get_gradient_edge(tensor)
            self._recorded[self._serial] = Call(slot, edge, layout, packs_what_is_saved())
        tensor.register_hook(Arrival(self._take, slot, kept, layout, self._serial))

    def _arrived(self, arrival: Arrival, grad: Tensor) -> None:
        slot = arrival.slot
        # calls of functions in the same layer have slots of their own
        is_misplaced = self.misplaced.get(slot.layer) is slot
        if self._inspect is None and not is_misplaced:
            with torch._C.DisableTorchFunction():
                at_output = arrival.at_output(grad)
            self._see(slot, at_output, arrival.kept)  # in here inputs may be computed again
        elif self._inspect is not None and arrival.serial in self._recorded:
            self._inspect(self._recorded[arrival.serial], arrival.at_output(grad))


def _nowhere(output: Tensor) -> None:
    return None


def _unseen(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, whose own operations the watch on calls does not see: they cost as the model's."""

    def disabled(*args: Any) -> None:
        with torch._C.DisableTorchFunction():
            hook(*args)

    return disabled


def lower(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Casts an input as autocast would: the same bits, in one copy for autograd and the probe."""
    if not args:
        return None
    first, *others = args
    if not isinstance(first, Tensor) or first.dtype != torch.float32:
        return None
    device = first.device.type
    if not torch.is_autocast_enabled(device):
        return None
    lowered = first.to(torch.get_autocast_dtype(device))
    return (lowered, *others)
