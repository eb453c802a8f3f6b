"""What a rule declares about an operation on watched parameters, whatever calls it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_noise.probes.examples.contribution import Contribution, Form

Operands = Mapping[str, Tensor]
Parts = Mapping[str, "Tensor | Contribution"]
RuleFunction = Callable[[Any, tuple[Tensor, ...], Tensor], Parts]


class Rule(ABC):
    """An operation with its arguments, and how the gradients of single examples follow from it.

    A rule knows no module. It is given the watched *operands*, by the names that the operation has
    for them ("weight", "bias"). It is also given the tensors of examples that the operation was
    called with and the gradient at its output, all with the examples along dimension 0. Whatever
    else the operation depends on (a stride, an epsilon) is an argument that an instance holds;
    :meth:`read` takes it from a module. Only :meth:`contributions` must be defined.

    Attributes:
        op: what messages call the operation.
        parameters: names of the operands that the rule serves; ``None`` for all of them.
        without_inputs: operands whose gradients need no inputs. If only these are watched, inputs
            are not kept.
        lowered: whether autocast runs the operation in half precision.
        positions_first: whether dimension 1 of the output holds positions, if it has any.
    """

    op: ClassVar[str] = "operation of a user"
    parameters: ClassVar[frozenset[str] | None] = None
    without_inputs: ClassVar[frozenset[str]] = frozenset()
    lowered: ClassVar[bool] = False
    positions_first: bool = False

    def read(self, module: nn.Module) -> "Rule":
        """This rule with the arguments of ``module``, or itself if it has none.

        It is read at every call of the module, because arguments may change between calls.
        """
        return self

    def refuses(self) -> str | None:
        """Why the operation with these arguments has no per-example gradients, or ``None``."""
        return None

    def kind(self) -> Hashable:
        """What calls have in common that :meth:`contributions` may take at once.

        Such calls have operands and tensors of the same shapes, and are given one after the other
        along dimension 0, with the operands of the first. ``None``, the default, means that every
        call is taken for itself, as where contributions depend on the values of operands.
        """
        return None

    def forms(self, name: str, operand: Tensor) -> tuple[Form, ...]:
        """Sketches of an operand's gradient, the preferred one first. Without any it is built."""
        return ()

    def doubts(self, inputs: tuple[Tensor, ...]) -> str | None:
        """Why the rows along dimension 0 of a call may not be examples, or ``None``.

        The self-check asks for it, unless the check on mixing has shown that no row of the output
        reaches another example.
        """
        return None

    @abstractmethod
    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Parts:
        """What one call adds to every example's gradient of each operand.

        Args:
            operands: those that are watched.
            inputs: tensors that the call was given; empty if :attr:`without_inputs` contains all
                ``operands``.
            grad: gradient at the output of the call.

        Returns:
            For every operand, gradients of shape (B, \\*operand.shape) or a
            :class:`~lightning_noise.probes.examples.contribution.Contribution`.
        """


class FunctionRule(Rule):
    """A rule from a user's function of the module, the inputs and the gradient at the output."""

    def __init__(
        self,
        function: RuleFunction,
        positions_first: bool,
        module: nn.Module | None = None,
    ) -> None:
        self._function = function
        self._module = module
        self.positions_first = positions_first

    def read(self, module: nn.Module) -> "FunctionRule":
        """The function for this module."""
        return FunctionRule(self._function, self.positions_first, module)

    def contributions(
        self,
        operands: Operands,
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Parts:
        """Returns what the function returns."""
        return self._function(self._module, inputs, grad)
