"""One call in which derived tensors meet the batch, as a rule for the parameters behind them."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.added import Added
from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.placed import (
    Frame,
    Placed,
    Pulled,
    Sides,
    frame_of,
)
from lightning_noise.probes.examples.contribution import Contribution, Dense, Form
from lightning_noise.probes.examples.rule import Operands, Parts, Rule


class Arrangement(NamedTuple):
    """Where the examples lie in the output of a call.

    Args:
        fold: in the output.
        shape: of the output.
    """

    fold: Fold
    shape: torch.Size

    @property
    def is_plain(self) -> bool:
        """Whether the examples lie one by one along dimension 0."""
        fold = self.fold
        return fold == Fold(fold.examples) and self.shape[0] == fold.examples

    def rows(self, first: Tensor) -> Tensor:
        """What :meth:`Fold.rows` gives, from what :meth:`Fold.first` gave."""
        fold, shape = self
        apart = fold.apart(shape)
        return first.reshape(fold.examples, *shape[: fold.dim], apart, *shape[fold.dim + 1 :])


class Operand(NamedTuple):
    """A derived tensor in a call.

    Args:
        tensor: the tensor, without its graph.
        derived: where it comes from.
    """

    tensor: Tensor
    derived: Derived

    def names(self, own: str) -> dict[str, str]:
        """The parameters behind it, by names for them in a call that has its own name for it."""
        if self.derived.name is not None:
            return {own: self.derived.name}
        return {f"{own} by {name}": name for name in sorted(self.derived.leaves)}


class Meeting(Rule):
    """How gradients of the derived tensors in one call follow from its inputs and output gradient.

    Args:
        operands: the derived tensors, by the operation's own names.
        inputs: other tensors, to be kept until the gradient comes.
        at: where the examples lie in the output.
        parameters: all watched ones, by name.
    """

    op = "call"

    def __init__(
        self,
        operands: Mapping[str, Operand],
        inputs: tuple[Tensor, ...],
        at: Arrangement,
        parameters: Mapping[str, Tensor],
    ) -> None:
        self.met = operands
        self.inputs = inputs
        self.at = at
        # of a folded dimension the views have shown what is what
        self.positions_first = self.positions_first and at.is_plain
        self.watched = parameters

    def release(self) -> tuple[Tensor, ...]:
        """The inputs, which are from now on held by whoever asks: autograd may let them go."""
        inputs, self.inputs = self.inputs, ()
        return inputs

    @property
    def names(self) -> dict[str, str]:
        """The model's name of each parameter behind an operand, by a name in this call."""
        return {keys[0]: name for name, keys in self._keys().items()}

    def _keys(self) -> dict[str, list[str]]:
        """Names in this call by the model's: a parameter may be behind several operands."""
        found: dict[str, list[str]] = {}
        for own, operand in self.met.items():
            for key, name in operand.names(own).items():
                found.setdefault(name, []).append(key)
        return found

    def offers(self) -> dict[str, tuple[Form, ...]]:
        """By the names in this call, the sketches that are offered."""
        found: dict[str, tuple[Form, ...]] = {}
        keys = self._keys()
        for own, operand in self.met.items():
            for key, name in operand.names(own).items():
                if len(keys[name]) == 1:
                    found[key] = self._forms(own, operand, name)
                elif key == keys[name][0]:
                    found[key] = ()  # what several operands add is built
        return found

    def sketches(self, own: str, tensor: Tensor) -> tuple[Form, ...]:
        """Of an operand that is a parameter, where it is no matrix."""
        return ()

    def sides(self, own: str) -> Sides | None:
        """Of an operand whose contributions are those of a matrix."""
        return None

    def _frame(self, own: str, name: str) -> Frame | None:
        place = self.met[own].derived.place
        return frame_of(place, self.sides(own), self.watched[name].numel())

    def _forms(self, own: str, operand: Operand, name: str) -> tuple[Form, ...]:
        if self.sides(own) is None:
            direct = operand.derived.name is not None
            return self.sketches(own, operand.tensor) if direct else ()
        frame = self._frame(own, name)
        return () if frame is None else frame.forms

    def arranged(self, grad: Tensor) -> Tensor:
        """The gradient at the output, the examples along dimension 0, as :meth:`parts` needs it."""
        return grad

    @abstractmethod
    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> Mapping[str, Contribution]:
        """Per-example gradients of every operand, by the operation's own names.

        Args:
            inputs: those that were kept, as they were in the call.
            grad: at the output, as :meth:`arranged` gives it.
        """

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Parts:
        """Those of the operands, led back to the parameters."""
        by_name: dict[str, list[Contribution]] = {}
        keys = self.names
        wanted = {name for key, name in keys.items() if key in operands}
        for own, part in self.parts(inputs, self.arranged(grad)).items():
            for name in wanted.intersection(self.met[own].names(own).values()):
                by_name.setdefault(name, []).append(self._of(own, part, name))
        found: dict[str, Contribution] = {}
        for key, name in keys.items():
            parts = by_name.get(name, [])
            if len(parts) > 1:
                found[key] = Added(parts, self.watched[name].shape)
            elif parts:
                found[key] = parts[0]
        return found

    def _of(self, own: str, part: Contribution, name: str) -> Contribution:
        derived, parameter = self.met[own].derived, self.watched[name]
        shape = parameter.shape
        if isinstance(part, Dense) and derived.name is not None:
            return Dense(lambda: part.gradients.reshape(-1, *shape))
        if isinstance(part, Dense):
            return Pulled(part, derived, name, self.watched)
        frame = self._frame(own, name)
        as_it_is = frame is None or (frame.is_whole and (frame.rows, frame.cols) == tuple(shape))
        if derived.name is not None and as_it_is:
            return part
        if frame is not None:
            return Placed(part, frame, shape)
        return Pulled(part, derived, name, self.watched)
