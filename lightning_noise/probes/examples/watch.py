"""One attachment of the probe: its hooks, and what they see of one backward pass."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason
from lightning_noise.probes.examples.calls.calls import Calls
from lightning_noise.probes.examples.calls.meeting import Meeting
from lightning_noise.probes.examples.contribution import NotPerExample
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.directions import Directions
from lightning_noise.probes.examples.entries import Entries
from lightning_noise.probes.examples.faults import (
    NOTHING_SEEN,
    batch_not_first,
)
from lightning_noise.probes.examples.inventory import Inventory, Slot
from lightning_noise.probes.examples.later import Held, Later
from lightning_noise.probes.examples.ledger import Ledger
from lightning_noise.probes.examples.listener import Kept, Listener
from lightning_noise.probes.examples.mixing import Mixing, MixingCheck
from lightning_noise.probes.examples.pass_seen import PassSeen
from lightning_noise.probes.examples.self_check import SelfCheck
from lightning_noise.probes.keyed_norms import KeyedNorms

MISPLACED = "its layer was called with the examples in another place than dimension 0"


class Watch:
    """Hooks on the layers of an inventory.

    Args:
        inventory: what to hook.
        model: the model that it was taken of.
        parameters: all watched parameters.
        keys: the names that each key is summed over.
        exact: whether to take exact norms, without sketches.
        sketches: independent sketches per parameter.
        several: parameters known to be used more than once.
    """

    def __init__(
        self,
        inventory: Inventory,
        model: nn.Module,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        *,
        exact: bool,
        sketches: int,
        several: Iterable[str],
    ) -> None:
        forms = dict(inventory.forms)
        signs = {name: form.signs for name, form in forms.items() if form is not None}
        self.norms = KeyedNorms(parameters, keys)
        self._dropped: dict[str, Cause] = {}
        self._handed: set[str] = set()
        self._directions = Directions(signs, sketches, self.norms.device)
        self._ledger = Ledger(
            self.norms,
            forms,
            self._directions.signs,
            exact=exact,
            sketches=sketches,
        )
        self._forms = forms
        self._listener = Listener(inventory.slots, self._see)
        by_calls = {name: parameters[name] for name in sorted(inventory.by_calls)}
        self._calls = Calls(model, by_calls, self._listener)
        self._entries = Entries(self._ledger, self._listener, parameters, several)
        self._later = Later(self.norms.device)
        # by identity of the slot, which the listener keeps; numbers are compared sooner
        numbers: dict[Hashable, int] = {}
        self._unchanging: dict[int, Hashable] = {}
        for slot in inventory.slots:
            kind = self._unchanging_of(slot)
            self._unchanging[id(slot)] = numbers.setdefault(kind, len(numbers))
        self._reset()

    def _reset(self, examples: int = 0, check: SelfCheck | None = None) -> None:
        self._open = False
        self._later.clear()
        self._examples = examples
        self._checks = check is not None
        self._entries.begin(examples, check)
        self._matched = False  # whether a layer had the examples along dimension 0
        self._strangers: dict[str, Cause] = {}  # parameters of layers that did not have them there
        self._strange_sizes: set[int] = set()
        self._new: dict[str, Cause] = {}
        self._as_long: dict[str, bool] = {}
        self._chosen = False

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Keeps the hooks for the duration of the context."""
        with self._listener.attach():
            try:
                yield
            finally:
                self._calls.rest()
                self.cancel()

    def listen(self, examples: int | None, *, record: bool) -> None:
        """A forward pass begins: notes its calls, and can record them for the check on mixing."""
        self._listener.begin(record=record)
        self._calls.begin(examples)

    def rest(self) -> None:
        """Removes the hooks on layers until the next forward pass."""
        self._calls.rest()
        self._listener.rest()

    def leave_out(self, causes: Mapping[str, Cause], handed: Mapping[str, Parameter]) -> None:
        """Leaves out what layers show of these; those handed over are watched in calls."""
        self._dropped |= {name: cause for name, cause in causes.items() if name not in handed}
        for name in handed:
            self._dropped.pop(name, None)
        self._handed |= handed.keys()
        self._calls.watch(handed)

    def begin(self, examples: int, seed: int, check: SelfCheck | None) -> None:
        """Opens the gate for one backward pass over this number of examples."""
        if not self._listener.listening:
            self.listen(examples, record=check is not None)
        self._reset(examples, check)
        self._directions.begin(seed, examples)
        self._ledger.begin()
        self._open = True

    def check_mixing(self, loss: Tensor, seed: int) -> Mixing:
        """Checks in the graph of the loss whether the examples of the open micro-batch mix."""
        listener = self._listener
        check = MixingCheck(loss, listener.recorded, self._examples, listener.inspecting, seed)
        with torch._C.DisableTorchFunction():
            found = check.find()
        self._entries.cleared = found.checked - set(found.layers)
        return found

    def end(self) -> PassSeen:
        """Closes the gate and returns what the backward pass has shown."""
        self._see_later()
        self._open = False
        self._listener.end()
        self._drop(self._calls.refused)
        for slot in self._listener.misplaced.values():
            seen_by_layer = set(slot.names.values()).difference(self._handed)
            self._drop(dict.fromkeys(seen_by_layer, Cause(MISPLACED, slot.layer)))
        fault = self._entries.fault
        if self._matched or self._may_be_folded():
            self._drop(self._strangers)
        elif fault is None:
            fault = self._nothing_seen()
        self._dropped |= self._new
        with torch._C.DisableTorchFunction():
            squares = self._ledger.end(self._dropped)
        self._directions.end()
        return PassSeen(
            squares,
            self._new,
            fault,
            self._matched,
            frozenset(self._entries.positions),
            frozenset(self._entries.several),
            self._as_long,
        )

    def cancel(self) -> None:
        """Closes the gate and forgets what this pass has shown."""
        self._reset()
        self._ledger.begin()
        self._directions.end()
        self.norms.clear()

    def _may_be_folded(self) -> bool:
        """Whether all layers had several rows for every example, as in (batch · positions)."""
        sizes = self._strange_sizes
        whole = all(size > 0 and size % self._examples == 0 for size in sizes)
        return bool(sizes) and whole and self._entries.fault is None

    def _nothing_seen(self) -> Reason:
        if not self._strange_sizes:
            return NOTHING_SEEN
        return batch_not_first(self._examples, self._strange_sizes)

    def _drop(self, causes: Mapping[str, Cause]) -> None:
        for name, cause in causes.items():
            if name not in self._dropped:
                self._new.setdefault(name, cause)

    def _see(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        """Takes the gradient at the output of one call."""
        # Gradients are enabled under create_graph=True: this pass computes a penalty in the loss.
        if not self._open or torch.is_grad_enabled():
            return
        if not self._chosen:
            self._choose_forms()
        with torch._C.DisableTorchFunction():
            waits = self._later.hold(slot, grad, kept)
        if not waits:
            self._see_now(slot, grad, kept)
        elif self._checks:
            self._check_held(slot, grad, kept)

    def _see_later(self) -> None:
        """Takes the small calls that were held, those of one kind at once."""
        if not self._later.held:
            return
        with torch._C.DisableTorchFunction():
            groups = self._groups(self._later.clear())
        # a backward pass does neither
        with torch.no_grad(), _without_autocast(self.norms.device.type):
            for group in groups:
                if len(group) == 1 or not self._entries.add_joined(group):
                    for one in group:
                        self._take(*one)

    def _groups(self, calls: Iterable[Held]) -> list[list[Held]]:
        """Calls of one kind together, without those that no longer count."""
        groups: dict[Hashable, list[Held]] = {}
        for one in calls:
            slot = self._in_charge(one.slot)
            if slot.names and self._belongs(slot, one.grad):
                key = self._kind_of(slot) or len(groups)
                groups.setdefault((key, one.shapes), []).append(one._replace(slot=slot))
        return list(groups.values())

    def _kind_of(self, slot: Slot) -> Hashable:
        """What calls have in common that may be taken at once; ``None``: this one may not be."""
        kind = slot.read().kind()
        if kind is None or not all(map(self._entries.alone, slot.names.values())):
            return None
        unchanging = self._unchanging.get(id(slot))
        if unchanging is None:
            unchanging = self._unchanging_of(slot)
        return kind, unchanging

    def _unchanging_of(self, slot: Slot) -> Hashable:
        """What two slots have in common that are taken at once, whatever they are called with."""
        found: list[Hashable] = []
        for own, name in slot.names.items():
            found += [own, slot.operands[own].shape, self.norms.cell_of[name], self._forms[name]]
        return tuple(found)

    def _see_now(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        slot = self._in_charge(slot)
        if not slot.names:
            return
        with torch._C.DisableTorchFunction():
            belongs = self._belongs(slot, grad)
            device = grad.device.type
        if not belongs:
            return
        with _without_autocast(device):
            self._take(slot, grad, kept)

    def _check_held(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        """Checks a call that is held.

        Its norms are taken with the others, as in steps without a check: to the last bit the same.
        """
        slot = self._in_charge(slot)
        with torch._C.DisableTorchFunction(), _without_autocast(grad.device.type):
            if not slot.names or not self._belongs(slot, grad):
                return
            try:
                self._entries.check(slot, grad, kept)
            except NotPerExample as reason:
                self._leave_out(slot, reason)

    def _take(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        try:
            self._entries.add(slot, grad, kept)
        except NotPerExample as reason:
            self._leave_out(slot, reason)

    def _leave_out(self, slot: Slot, reason: NotPerExample) -> None:
        cause = Cause(str(reason), slot.layer)
        self._drop(dict.fromkeys(slot.names.values(), cause))

    def _in_charge(self, slot: Slot) -> Slot:
        """The slot without parameters that were dropped, or handed over to the watch on calls."""
        if not self._dropped and not self._new and not self._handed:
            return slot
        out: set[str] = self._dropped.keys() | self._new.keys()
        if not isinstance(slot.rule, Meeting):
            out |= self._handed
        if out.isdisjoint(slot.names.values()):
            return slot
        return slot.without(out)

    def _choose_forms(self) -> None:
        """Decides how parameters seen in calls are sketched: all calls are known by now."""
        self._chosen = True
        for name in self._calls.watched:
            form = self._calls.form(name)
            self._forms[name] = form
            if form is not None:
                self._directions.need(name, form.signs)

    def _belongs(self, slot: Slot, grad: Tensor) -> bool:
        """Whether the examples lie along dimension 0 of a layer's output."""
        size = 1
        if grad.dim() > 0:
            size = grad.shape[0]
        if size == self._examples:
            self._matched = True
            if grad.dim() > 2 and slot.rule.positions_first:
                as_long = grad.shape[1] == size
                before = self._as_long.get(slot.layer, True)
                self._as_long[slot.layer] = as_long and before
            return True
        self._strange_sizes.add(size)
        called = f"its layer was called with {size} along dimension 0"
        cause = Cause(f"{called}, where the batch has {self._examples} examples", slot.layer)
        self._strangers |= dict.fromkeys(slot.names.values(), cause)
        return False


def _without_autocast(device: str) -> AbstractContextManager[None]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
