"""Derived weights of convolutions and normalisations."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.grouped import Grouped
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.operands import batch_of, by_rows, derived_among
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import Contribution, Form, NotPerExample
from lightning_noise.probes.examples.rule import Rule
from lightning_noise.probes.examples.rules.bilinear import BilinearRule
from lightning_noise.probes.examples.rules.convolution import ConvolutionRule
from lightning_noise.probes.examples.rules.norms import (
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
    RMSNormRule,
)
from lightning_noise.probes.examples.rules.transposed_convolution import TransposedConvolutionRule

Parameters = Mapping[str, Tensor]


class RuleMeeting(Meeting):
    """An operation that a rule serves, with derived tensors in place of parameters.

    Args:
        rule: of the operation, with its arguments.
        of_input: where the examples lie in the input.
        by_rows: whether each row along dimension 0 is treated by itself, so that an example may
            have several.
    """

    def __init__(self, *args: Any, rule: Rule, of_input: Fold, by_rows: bool) -> None:
        super().__init__(*args)
        self.by_rows = by_rows
        self.rule = rule
        self.of_input = of_input
        self.op = rule.op  # type: ignore[misc]  # a class's own elsewhere
        self.positions_first = rule.positions_first and self.at.is_plain
        self.without_inputs = rule.without_inputs  # type: ignore[misc]

    def sketches(self, own: str, tensor: Tensor) -> tuple[Form, ...]:
        """As the rule offers."""
        return self.rule.forms(own, tensor)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """As the rule gives."""
        tensors = {own: operand.tensor for own, operand in self.met.items()}
        fold = self.of_input
        each = fold.apart(self.at.shape) if self.by_rows else 1
        chosen = self.by_rows and fold.owners is not None
        if each == 1 and not chosen:
            given = tuple(fold.first(x) for x in inputs)
        else:
            given = tuple(fold.rows(x).flatten(0, 1) for x in inputs)
            grad = self.at.rows(grad).flatten(0, 1)
        found: dict[str, Contribution] = {}
        for own, part in self.rule.contributions(tensors, given, grad).items():
            if isinstance(part, Contribution):
                found[own] = part if each == 1 else Grouped(part, each)
        return found


def _served(
    seen: Seen,
    rule: Rule,
    given: Mapping[str, Tensor | None],
    at: Arrangement,
    parameters: Parameters,
) -> RuleMeeting:
    x = seen.argument(0, "input")
    operands = derived_among(seen, given)
    inputs = () if rule.without_inputs.issuperset(operands) else (x,)
    of_input = batch_of(seen, x)
    return RuleMeeting(
        operands,
        inputs,
        at,
        parameters,
        rule=rule,
        of_input=of_input,
        by_rows=not isinstance(rule, (LayerNormRule, RMSNormRule)),
    )


def _weights(seen: Seen, first: int) -> dict[str, Tensor | None]:
    return {
        "weight": seen.argument(first, "weight"),
        "bias": seen.argument(first + 1, "bias"),
    }


def _each(given: int | tuple[int, ...] | list[int], space: int) -> tuple[int, ...]:
    return (given,) * space if isinstance(given, int) else tuple(given)


def convolution(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.conv2d(input, weight, bias, stride, padding, dilation, groups)``."""
    x = seen.argument(0, "input")
    by_rows(batch_of(seen, x), seen.name)
    space = x.dim() - 2
    padding = seen.argument(4, "padding", 0)
    rule = ConvolutionRule(
        stride=_each(seen.argument(3, "stride", 1), space),
        padding=padding if isinstance(padding, str) else _each(padding, space),
        dilation=_each(seen.argument(5, "dilation", 1), space),
        groups=seen.argument(6, "groups", 1),
    )
    return _served(seen, rule, _weights(seen, 1), at, parameters)


def transposed_convolution(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.conv_transpose2d(input, weight, bias, stride, padding, …)``."""
    x = seen.argument(0, "input")
    by_rows(batch_of(seen, x), seen.name)
    space = x.dim() - 2
    rule = TransposedConvolutionRule(
        stride=_each(seen.argument(3, "stride", 1), space),
        padding=_each(seen.argument(4, "padding", 0), space),
        dilation=_each(seen.argument(7, "dilation", 1), space),
        groups=seen.argument(6, "groups", 1),
    )
    return _served(seen, rule, _weights(seen, 1), at, parameters)


def bilinear(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.bilinear(input1, input2, weight, bias)``."""
    inputs = seen.argument(0, "input1"), seen.argument(1, "input2")
    folds = {batch_of(seen, x) for x in inputs}
    if len(folds) != 1:
        raise NotPerExample("the inputs of bilinear hold the examples in different places")
    operands = derived_among(seen, _weights(seen, 2))
    return RuleMeeting(
        operands,
        inputs,
        at,
        parameters,
        rule=BilinearRule(),
        of_input=folds.pop(),
        by_rows=False,
    )


def layer_norm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.layer_norm(input, normalized_shape, weight, bias, eps)``."""
    rule = LayerNormRule(seen.argument(4, "eps", 1e-5))
    return _served(seen, rule, _weights(seen, 2), at, parameters)


def rms_norm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.rms_norm(input, normalized_shape, weight, eps)``."""
    rule = RMSNormRule(seen.argument(3, "eps"))
    return _served(seen, rule, {"weight": seen.argument(2, "weight")}, at, parameters)


def group_norm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.group_norm(input, num_groups, weight, bias, eps)``."""
    by_rows(at.fold, seen.name)
    rule = GroupNormRule(seen.argument(1, "num_groups"), seen.argument(4, "eps", 1e-5))
    return _served(seen, rule, _weights(seen, 2), at, parameters)


def instance_norm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.instance_norm(input, mean, variance, weight, bias, use_input_stats, …)``."""
    by_rows(at.fold, seen.name)
    running = _running(seen) if not seen.argument(5, "use_input_stats", True) else None
    rule = InstanceNormRule(len(at.shape) - 2, seen.argument(7, "eps", 1e-5), running)
    return _served(seen, rule, _weights(seen, 3), at, parameters)


def batch_norm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.batch_norm`` with statistics of the past."""
    by_rows(at.fold, seen.name)
    rule = InstanceNormRule(len(at.shape) - 2, seen.argument(7, "eps", 1e-5), _running(seen))
    return _served(seen, rule, _weights(seen, 3), at, parameters)


def _running(seen: Seen) -> tuple[Tensor, Tensor]:
    mean, variance = seen.argument(1, "running_mean"), seen.argument(2, "running_var")
    if mean is None or variance is None:
        raise NotPerExample(f"{seen.name} has no statistics of the past")
    return mean, variance


MEETINGS: dict[str, Callable[[Seen, Arrangement, Parameters], Meeting]] = {
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], convolution),
    **dict.fromkeys(
        ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], transposed_convolution
    ),
    "bilinear": bilinear,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
}
