"""One attachment of the probe: its hooks, and what they see of one backward pass."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.directions import Directions
from lightning_noise.probes.examples.inventory import Inventory, Slot
from lightning_noise.probes.examples.ledger import Ledger, UsedAgain
from lightning_noise.probes.examples.listener import Kept, Listener
from lightning_noise.probes.examples.mixing import Mixing, MixingCheck
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.self_check import SelfCheck
from lightning_noise.probes.keyed_norms import KeyedNorms


class PassSeen(NamedTuple):
    """What one backward pass gave.

    Args:
        square: Σ_i |c_i|² by key, fp64 of shape (keys,).
        dropped: parameters found out to have no per-example gradients, with the reason.
        fault: why the step cannot be used.
        matched: whether any layer had the examples along dimension 0.
        positions: layers whose rows were found to be positions, not examples.
    """

    square: Tensor
    dropped: dict[str, str]
    fault: str | None
    matched: bool
    positions: frozenset[str]


class Watch:
    """Hooks on the layers of an inventory.

    Args:
        inventory: what to hook.
        parameters: all watched parameters.
        keys: the names each number is summed over.
        exact: does not sketch.
        sketches: independent sketches a parameter.
        several: parameters known to be used more than once; what is found out is added.
        square: layers by whether each call had as many positions as examples, so that nobody can tell which is which.
    """

    def __init__(
        self,
        inventory: Inventory,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        *,
        exact: bool,
        sketches: int,
        several: set[str],
        square: dict[str, bool],
    ) -> None:
        self.norms = KeyedNorms(parameters, keys)
        self.dropped: dict[str, str] = {}
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        signs = {name: form.signs for name, form in inventory.forms.items() if form is not None}
        self._directions = Directions(signs, sketches, self.norms.device)
        self._ledger = Ledger(self.norms, inventory.forms, self._directions.signs, exact=exact, sketches=sketches)
        self._listener = Listener(inventory.slots, self._see)
        self._several = several
        self._square = square
        self._reset()

    def _reset(self, examples: int = 0, check: SelfCheck | None = None) -> None:
        self._open = False
        self._examples = examples
        self._check = check
        self._matched = False  # whether a layer had the examples along dimension 0
        self._strangers: dict[str, str] = {}  # parameters of layers that had not
        self._strange_sizes: set[int] = set()
        self._new: dict[str, str] = {}
        self._fault: str | None = None
        self._cleared: Container[str] = ()  # layers whose rows are known not to mix
        self._positions: set[str] = set()

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Keeps the hooks inside the context."""
        with self._listener.attach():
            try:
                yield
            finally:
                self._reset()
                self._ledger.begin()
                self._directions.end()
                self.norms.clear()

    def listen(self, *, record: bool) -> None:
        """A forward pass begins; its calls are noted, and recorded for the check on mixing."""
        self._listener.begin(record=record)

    def rest(self) -> None:
        """Removes the hooks on layers until the next forward pass."""
        self._listener.rest()

    def begin(self, examples: int, seed: int, check: SelfCheck | None) -> None:
        """Opens the gate for one backward pass over so many examples."""
        if not self._listener.listening:
            self.listen(record=check is not None)
        self._reset(examples, check)
        self._directions.begin(seed, examples)
        self._ledger.begin()
        self._open = True

    def check_mixing(self, loss: Tensor, seed: int) -> Mixing:
        """Whether the examples of the micro-batch that was begun mix, by the graph of its loss."""
        listener = self._listener
        check = MixingCheck(loss, listener.recorded, self._examples, listener.inspecting, seed)
        found = check.find()
        self._cleared = found.checked - set(found.layers)
        if found.along_positions:
            self._square.update(dict.fromkeys(self._square | dict.fromkeys(found.checked), False))
        return found

    def end(self) -> PassSeen:
        """Closes the gate."""
        self._open = False
        self._listener.end()
        if self._matched:
            self._drop(self._strangers)
        elif self._fault is None:
            self._fault = self._nothing_seen()
        self.dropped |= self._new
        square = self._ledger.end(self.dropped)
        self._directions.end()
        return PassSeen(square, self._new, self._fault, self._matched, frozenset(self._positions))

    def cancel(self) -> None:
        """Closes the gate and forgets what this pass has shown."""
        self._reset()
        self._ledger.begin()
        self._directions.end()
        self.norms.clear()

    def _nothing_seen(self) -> str:
        if not self._strange_sizes:
            return "no covered layer took part in the backward pass, or it was called before the hooks were there"
        found = ", ".join(map(str, sorted(self._strange_sizes)))
        return f"no layer has the {self._examples} examples of the batch along dimension 0 (found there: {found})"

    def _drop(self, reasons: Mapping[str, str]) -> None:
        self._new |= {name: reason for name, reason in reasons.items() if name not in self._new and name not in self.dropped}

    # ---- one gradient at one output -------------------------------------------------------------------------------------

    def _see(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        if not self._open or torch.is_grad_enabled():  # enabled: create_graph=True, a penalty's gradient on the way to the loss
            return
        names = slot.names
        if self.dropped or self._new:
            names = {own: name for own, name in names.items() if name not in self.dropped and name not in self._new}
        if not names or not self._belongs(slot, names, grad):
            return
        device = grad.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            try:
                self._add(slot, names, grad, kept)
            except NotPerExample as reason:
                self._drop(dict.fromkeys(names.values(), f"{slot.layer}: {reason}"))

    def _belongs(self, slot: Slot, names: Mapping[str, str], grad: Tensor) -> bool:
        size = len(grad) if grad.dim() else 1
        if size == self._examples:
            self._matched = True
            if grad.dim() > 2 and slot.positions_first:
                self._square[slot.layer] = self._square.get(slot.layer, True) and grad.shape[1] == size
            return True
        self._strange_sizes.add(size)
        reason = f"{slot.layer} was called with {size} along dimension 0, where the batch has {self._examples} examples"
        self._strangers |= dict.fromkeys(names.values(), reason)
        return False

    def _add(self, slot: Slot, names: Mapping[str, str], grad: Tensor, kept: Kept) -> None:
        inputs = kept.take()
        if inputs is None:
            self._fault = "a graph was walked backward twice in one micro-batch (retain_graph=True)"
            return
        try:
            given = slot.rule(slot.module, inputs, grad)
            parts = {name: self._contribution(name, given.get(own)) for own, name in names.items()}
            self._enter(names, parts)
            if self._check is not None:
                dtypes = [x.dtype for x in (grad, *inputs) if x.is_floating_point()]
                for name, part in parts.items():
                    self._check.add(name, part.total(), dtypes)
        except (NotPerExample, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's rule may raise anything; training goes on without it
            raise NotPerExample(f"its rule raised {type(error).__name__}: {error}") from error
        if self._check is not None:
            self._check_doubts(slot, inputs)

    def _contribution(self, name: str, given: Tensor | Contribution | None) -> Contribution:
        if isinstance(given, Contribution):
            return given
        wanted = (self._examples, *self._shapes[name])
        if given is None or tuple(given.shape) != wanted:
            found = "nothing" if given is None else f"shape {tuple(given.shape)}"
            raise NotPerExample(f"its rule gave {found} for {name!r}, where gradients of shape {wanted} are needed")
        return Dense(given)

    def _enter(self, names: Mapping[str, str], parts: Mapping[str, Contribution]) -> None:
        try:
            paired = self._enter_pair(names, parts)
            for name, part in parts.items():
                if name not in paired:
                    self._ledger.add(name, part, alone=self._alone(name))
        except UsedAgain as used:
            self._several.update(parts)
            self._fault = f"{used.name!r} was used again inside the backward pass; from the next step on its uses are added up"

    def _enter_pair(self, names: Mapping[str, str], parts: Mapping[str, Contribution]) -> tuple[str, ...]:
        for name, part in parts.items():
            bias = names.get(part.bias) if isinstance(part, Outer) and part.bias is not None else None
            if isinstance(part, Outer) and bias is not None and self._alone(name) and self._alone(bias):
                return (name, bias) if self._ledger.add_pair(name, bias, part) else ()
        return ()

    def _alone(self, name: str) -> bool:
        return self._listener.calls[name] < 2 and name not in self._several

    def _check_doubts(self, slot: Slot, inputs: tuple[Tensor, ...]) -> None:
        doubts = getattr(slot.rule, "doubts", None)
        if doubts is None or slot.layer in self._cleared:
            return
        reason = doubts(slot.module, inputs)
        if reason is not None:
            self._positions.add(slot.layer)
            raise NotPerExample(reason)
