"""One attachment of the probe: its hooks, and what they see of one backward pass."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.directions import Directions
from lightning_noise.probes.examples.inventory import Inventory, Slot
from lightning_noise.probes.examples.ledger import Ledger, UsedAgain
from lightning_noise.probes.examples.listener import Kept, Listener
from lightning_noise.probes.examples.mixing import Mixing, MixingCheck
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.self_check import SelfCheck
from lightning_noise.probes.keyed_norms import KeyedNorms

NOTHING_SEEN = "no covered layer was in the backward pass, or it ran before the hooks were there"


class PassSeen(NamedTuple):
    """What one backward pass has shown.

    Args:
        squares: Σ_i |c_i|² by key, fp64 of shape (keys,).
        dropped: parameters without per-example gradients, and why.
        fault: why the step cannot be used.
        matched: whether any layer had the examples along dimension 0.
        positions: layers whose rows are positions, not examples.
        several: parameters that are used more than once.
        as_long: by layer, whether each call had as many positions as examples, so that one cannot
            be told from the other.
    """

    squares: Tensor
    dropped: dict[str, Cause]
    fault: str | None
    matched: bool
    positions: frozenset[str]
    several: frozenset[str]
    as_long: dict[str, bool]


class Watch:
    """Hooks on the layers of an inventory.

    Args:
        inventory: what to hook.
        parameters: all watched parameters.
        keys: the names that each key is summed over.
        exact: whether to take exact norms, without sketches.
        sketches: independent sketches per parameter.
        several: parameters known to be used more than once.
    """

    def __init__(
        self,
        inventory: Inventory,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        *,
        exact: bool,
        sketches: int,
        several: Iterable[str],
    ) -> None:
        forms = inventory.forms
        signs = {name: form.signs for name, form in forms.items() if form is not None}
        self.norms = KeyedNorms(parameters, keys)
        self._dropped: dict[str, Cause] = {}
        self._parameters = dict(parameters)
        self._directions = Directions(signs, sketches, self.norms.device)
        self._ledger = Ledger(
            self.norms,
            forms,
            self._directions.signs,
            exact=exact,
            sketches=sketches,
        )
        self._listener = Listener(inventory.slots, self._see)
        self._several = set(several)
        self._reset()

    def _reset(self, examples: int = 0, check: SelfCheck | None = None) -> None:
        self._open = False
        self._examples = examples
        self._check = check
        self._matched = False  # whether a layer had the examples along dimension 0
        self._strangers: dict[str, Cause] = {}  # parameters of layers that did not have them there
        self._strange_sizes: set[int] = set()
        self._new: dict[str, Cause] = {}
        self._fault: str | None = None
        self._cleared: Container[str] = ()  # layers whose rows are known not to mix
        self._positions: set[str] = set()
        self._as_long: dict[str, bool] = {}

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Keeps the hooks for the duration of the context."""
        with self._listener.attach():
            try:
                yield
            finally:
                self.cancel()

    def listen(self, *, record: bool) -> None:
        """A forward pass begins: notes its calls, and can record them for the check on mixing."""
        self._listener.begin(record=record)

    def rest(self) -> None:
        """Removes the hooks on layers until the next forward pass."""
        self._listener.rest()

    def begin(self, examples: int, seed: int, check: SelfCheck | None) -> None:
        """Opens the gate for one backward pass over this number of examples."""
        if not self._listener.listening:
            self.listen(record=check is not None)
        self._reset(examples, check)
        self._directions.begin(seed, examples)
        self._ledger.begin()
        self._open = True

    def check_mixing(self, loss: Tensor, seed: int) -> Mixing:
        """Checks in the graph of the loss whether the examples of the open micro-batch mix."""
        listener = self._listener
        check = MixingCheck(loss, listener.recorded, self._examples, listener.inspecting, seed)
        found = check.find()
        self._cleared = found.checked - set(found.layers)
        return found

    def end(self) -> PassSeen:
        """Closes the gate and returns what the backward pass has shown."""
        self._open = False
        self._listener.end()
        if self._matched:
            self._drop(self._strangers)
        elif self._fault is None:
            self._fault = self._nothing_seen()
        self._dropped |= self._new
        squares = self._ledger.end(self._dropped)
        self._directions.end()
        return PassSeen(
            squares,
            self._new,
            self._fault,
            self._matched,
            frozenset(self._positions),
            frozenset(self._several),
            self._as_long,
        )

    def cancel(self) -> None:
        """Closes the gate and forgets what this pass has shown."""
        self._reset()
        self._ledger.begin()
        self._directions.end()
        self.norms.clear()

    def _nothing_seen(self) -> str:
        if not self._strange_sizes:
            return NOTHING_SEEN
        examples = f"the {self._examples} examples of the batch"
        found = ", ".join(map(str, sorted(self._strange_sizes)))
        return f"no layer has {examples} along dimension 0 (found there: {found})"

    def _drop(self, causes: Mapping[str, Cause]) -> None:
        for name, cause in causes.items():
            if name not in self._dropped:
                self._new.setdefault(name, cause)

    def _see(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        """Takes the gradient at the output of one call."""
        # Gradients are enabled under create_graph=True: this pass computes a penalty in the loss.
        if not self._open or torch.is_grad_enabled():
            return
        if self._dropped or self._new:
            slot = self._without_dropped(slot)
        if not slot.names or not self._belongs(slot, grad):
            return
        with _without_autocast(grad.device.type):
            try:
                self._add(slot, grad, kept)
            except NotPerExample as reason:
                cause = Cause(str(reason), slot.layer)
                self._drop(dict.fromkeys(slot.names.values(), cause))

    def _without_dropped(self, slot: Slot) -> Slot:
        dropped = self._dropped.keys() | self._new.keys()
        if dropped.isdisjoint(slot.names.values()):
            return slot
        return slot.without(dropped)

    def _belongs(self, slot: Slot, grad: Tensor) -> bool:
        """Whether the examples lie along dimension 0 of a layer's output."""
        size = 1
        if grad.dim() > 0:
            size = len(grad)
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

    def _add(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        inputs = kept.take()
        if inputs is None:
            self._fault = "backward went through one graph twice (retain_graph=True)"
            return
        try:
            self._contribute(slot, inputs, grad)
        except (NotPerExample, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's rule may raise anything; training goes on without it
            raise NotPerExample(f"its rule raised {type(error).__name__}: {error}") from error

    def _contribute(self, slot: Slot, inputs: tuple[Tensor, ...], grad: Tensor) -> None:
        rule = slot.read()
        given = rule.contributions(slot.operands, inputs, grad)
        parts: dict[str, Contribution] = {}
        for own, name in slot.names.items():
            parts[name] = self._contribution(name, given.get(own))
        self._enter(slot.names, parts)
        if self._check is None:
            return
        dtypes = [x.dtype for x in (grad, *inputs) if x.is_floating_point()]
        for name, part in parts.items():
            self._check.add(name, part.total(), dtypes)
        if slot.layer in self._cleared:
            return
        doubt = rule.doubts(inputs)
        if doubt is not None:
            self._positions.add(slot.layer)
            raise NotPerExample(doubt)

    def _contribution(self, name: str, given: Tensor | Contribution | None) -> Contribution:
        if isinstance(given, Contribution):
            return given
        needed = (self._examples, *self._parameters[name].shape)
        if given is None:
            found = "nothing"
        elif tuple(given.shape) == needed:
            return Dense(given)
        else:
            found = f"shape {tuple(given.shape)}"
        where = f"where gradients of shape {needed} are needed"
        raise NotPerExample(f"its rule gave {found} for {name!r}, {where}")

    def _enter(self, names: Mapping[str, str], parts: Mapping[str, Contribution]) -> None:
        try:
            paired = self._enter_pair(names, parts)
            for name, part in parts.items():
                if name not in paired:
                    self._ledger.add(name, part, alone=self._alone(name))
        except UsedAgain as used:
            self._several.update(parts)
            again = f"{used.name!r} was used again inside the backward pass"
            self._fault = f"{again}; from the next step on its uses are added up"

    def _enter_pair(
        self,
        names: Mapping[str, str],
        parts: Mapping[str, Contribution],
    ) -> tuple[str, ...]:
        """Enters a weight and its bias together, and returns their names; none if it did not."""
        for name, part in parts.items():
            if not isinstance(part, Outer) or part.bias is None or part.bias not in names:
                continue
            bias = names[part.bias]
            if not (self._alone(name) and self._alone(bias)):
                continue
            if self._ledger.add_pair(name, bias, part):
                return name, bias
            return ()
        return ()

    def _alone(self, name: str) -> bool:
        return self._listener.calls[name] < 2 and name not in self._several


def _without_autocast(device: str) -> AbstractContextManager[None]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
