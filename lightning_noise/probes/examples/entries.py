"""What the calls of one backward pass contribute: checked, and entered into the ledger."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.core.reasons import Reason
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.faults import SEEN_TWICE, used_again
from lightning_noise.probes.examples.inventory import Slot
from lightning_noise.probes.examples.later import Held, join
from lightning_noise.probes.examples.ledger import Ledger, UsedAgain
from lightning_noise.probes.examples.listener import Kept, Listener
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.self_check import SelfCheck


class Entries:
    """Asks rules what calls contribute, and enters it.

    Args:
        ledger: for the contributions.
        listener: knows how often each parameter was used.
        parameters: all watched parameters.
        several: parameters known to be used more than once.

    Attributes:
        fault: why the step cannot be used.
        positions: layers whose rows are positions, not examples.
        cleared: layers whose rows are known not to mix.
    """

    def __init__(
        self,
        ledger: Ledger,
        listener: Listener,
        parameters: Mapping[str, Parameter],
        several: Iterable[str],
    ) -> None:
        self._ledger = ledger
        self._listener = listener
        self._parameters = dict(parameters)
        self.several = set(several)
        self.begin()

    def begin(self, examples: int = 0, check: SelfCheck | None = None) -> None:
        """A backward pass over so many examples begins, with or without a check."""
        self._examples = examples
        self._check = check
        self.fault: Reason | None = None
        self.positions: set[str] = set()
        self.cleared: Container[str] = ()

    def add(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        """Enters one call, and checks it unless it was checked as it arrived.

        Raises:
            NotPerExample: the parameters of the call have to be left out.
        """
        inputs = kept.take()
        if inputs is None:
            self.fault = SEEN_TWICE
            return
        # what computes inputs again, above, must be intercepted as the forward pass was
        with torch._C.DisableTorchFunction(), _errors_of_rules():
            parts = self._parts(slot, inputs, grad)
            self._enter([slot.names], parts)
            if not kept.waits:
                self._check_parts(slot, inputs, grad, parts)

    def check(self, slot: Slot, grad: Tensor, kept: Kept) -> None:
        """Checks one call that is entered later, with others of its kind.

        Raises:
            NotPerExample: as in :meth:`add`.
        """
        inputs = kept.read()
        if inputs is None:
            return
        with torch._C.DisableTorchFunction(), _errors_of_rules():
            self._check_parts(slot, inputs, grad, self._parts(slot, inputs, grad))

    def add_joined(self, calls: Sequence[Held]) -> bool:
        """Enters calls of one kind at once; ``False`` if each must be entered for itself."""
        slot = calls[0].slot
        try:
            joined = join(calls)
            if joined is None:
                return False
            with torch._C.DisableTorchFunction():
                parts = self._parts(slot, joined.inputs, joined.grad)
                self._enter([call.slot.names for call in calls], parts)
        except NotPerExample:
            return False  # which of them it is shows one by one
        for call in calls:
            call.kept.forget()
        return True

    def alone(self, name: str) -> bool:
        """Whether a parameter is used once."""
        return self._listener.calls[name] < 2 and name not in self.several

    def _parts(
        self,
        slot: Slot,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> dict[str, Contribution]:
        given = slot.read().contributions(slot.operands, inputs, grad)
        return {own: self._contribution(name, given.get(own)) for own, name in slot.names.items()}

    def _check_parts(
        self,
        slot: Slot,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
        parts: Mapping[str, Contribution],
    ) -> None:
        if self._check is None:
            return
        dtypes = [x.dtype for x in (grad, *inputs) if x.is_floating_point()]
        for own, part in parts.items():
            self._check.add(slot.names[own], part.total(), dtypes)
        if slot.layer in self.cleared:
            return
        doubt = slot.read().doubts(inputs)
        if doubt is not None:
            self.positions.add(slot.layer)
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

    def _enter(
        self,
        calls: Sequence[Mapping[str, str]],
        parts: Mapping[str, Contribution],
    ) -> None:
        """Enters what one call adds, or several calls that were taken at once.

        Args:
            calls: the names of each call's parameters, by their names in the layer.
            parts: by the names in the layer; the examples of one call after those of the other.
        """
        try:
            paired = self._enter_pair(calls, parts)
            for own, part in parts.items():
                if own in paired:
                    continue
                names = [call[own] for call in calls]
                if all(map(self.alone, names)):
                    self._ledger.add_alone(names, part)
                else:
                    self._ledger.add(names[0], part)  # only calls alone are taken at once
        except UsedAgain as used:
            for call in calls:
                self.several.update(call.values())
            self.fault = used_again(used.name)

    def _enter_pair(
        self,
        calls: Sequence[Mapping[str, str]],
        parts: Mapping[str, Contribution],
    ) -> tuple[str, ...]:
        """Enters weights and their biases together, and returns their names in the layer.

        It returns none if it did not.
        """
        for own, part in parts.items():
            if not isinstance(part, Outer) or part.bias is None or part.bias not in parts:
                continue
            weights = [call[own] for call in calls]
            biases = [call[part.bias] for call in calls]
            if not all(map(self.alone, (*weights, *biases))):
                continue
            if self._ledger.add_pair(weights, biases, part):
                return own, part.bias
            return ()
        return ()


@contextmanager
def _errors_of_rules() -> Iterator[None]:
    """A user's rule may raise anything; training goes on without it."""
    try:
        yield
    except (NotPerExample, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise NotPerExample(f"its rule raised {type(error).__name__}: {error}") from error
