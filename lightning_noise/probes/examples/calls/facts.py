"""What is known of every tensor in a forward pass: constant, derived from parameters, or batch."""

import weakref
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold


class Constant(NamedTuple):
    """Neither examples nor watched parameters are in it, as far as gradients go.

    To take data for a constant gives no wrong number: no gradient reaches it.
    """


class Unknown(NamedTuple):
    """The examples may be anywhere in it; the message is the reason."""

    reason: str


CONSTANT = Constant()
Fact: TypeAlias = Constant | Unknown | Derived | Fold


class Facts:
    """Facts by tensor, for one forward pass. No tensor is held.

    Args:
        examples: of the batch; ``None``: as many as the first tensor of data has rows.
        constants: tensors that are no data: buffers and parameters that nobody watches here.
        parameters: the watched ones, by name.
    """

    def __init__(
        self,
        examples: int | None,
        constants: Iterable[Tensor],
        parameters: dict[str, nn.Parameter],
    ) -> None:
        self.examples = examples
        # by the id of a tensor, which another one may get later: hence the reference
        self._known: dict[int, tuple[weakref.ref[Tensor], Fact]] = {}
        self._placed: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Fact] = {}
        for tensor in constants:
            self.learn(tensor, CONSTANT)
        for name, parameter in parameters.items():
            self.learn(parameter, Derived.of_parameter(name, parameter))

    def learn(self, tensor: Tensor, fact: Fact) -> None:
        """States a fact."""
        self._known[id(tensor)] = (weakref.ref(tensor), fact)

    def known(self, tensor: Tensor) -> Fact | None:
        """The fact; ``None`` of a tensor never met."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def of(self, tensor: Tensor) -> Fact:
        """The fact; that of a tensor never met follows from its shape."""
        known = self.known(tensor)
        if known is not None:
            return known
        fact = self._of_newcomer(tensor)
        self.learn(tensor, fact)
        return fact

    def remember(self, tensor: Tensor, fact: Fact) -> None:
        """States a fact for whatever tensor lies where this one does.

        Checkpointing of the reentrant kind runs a part of the model without a graph, and again in
        the backward pass with other tensors for the same numbers.
        """
        self._placed[_place(tensor)] = fact

    def _of_newcomer(self, tensor: Tensor) -> Fact:
        if self._placed:
            fact = self._placed.get(_place(tensor))
            if fact is not None:
                return fact
        if isinstance(tensor, nn.Parameter) or tensor.dim() == 0:
            return CONSTANT
        if self.examples is None:
            self.examples = len(tensor)
        if len(tensor) != self.examples:
            return CONSTANT if tensor.grad_fn is None else Unknown(_unseen(tensor))
        positions = tensor.dim() > 1 and tensor.shape[1] == self.examples
        if tensor.grad_fn is not None and positions:
            return Unknown(_unseen(tensor))  # dimension 0 may hold either
        return Fold(self.examples)

    def random(self, tensor: Tensor) -> Fact:
        """Of a tensor that was drawn: noise for every example, or for anything else."""
        if tensor.dim() > 0 and len(tensor) == self.examples:
            return Fold(self.examples)
        return CONSTANT


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _unseen(tensor: Tensor) -> str:
    # asked of tensors with a node alone
    node = tensor.grad_fn.name()  # type: ignore[union-attr]
    return f"the output of {node}, which is no function of torch"
