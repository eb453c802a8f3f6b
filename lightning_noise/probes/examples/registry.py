"""Which rule serves which kind of module, and how a user adds one."""

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # of MultiheadAttention alone

from lightning_noise.probes.examples.modules import READERS, Reader
from lightning_noise.probes.examples.rule import FunctionRule, Rule, RuleFunction

_rules: dict[type[nn.Module], Reader] = dict(READERS)


def register_rule(module_type: type[nn.Module], rule: RuleFunction | Rule) -> None:
    """Teaches the ``examples`` probe a kind of layer, or replaces the rule of one.

    ``rule(module, inputs, grad)`` gets the layer, the tensors it was called with and the gradient
    of the loss at its output, all with the examples along dimension 0. For every parameter that the
    layer itself owns, it returns the gradients of the single examples, shape
    (B, \\*parameter.shape), by the name of the parameter in the layer:

    >>> import torch
    >>> class Scale(nn.Module):
    ...     def __init__(self, width: int) -> None:
    ...         super().__init__()
    ...         self.gamma = nn.Parameter(torch.ones(width))
    ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
    ...         return self.gamma * x
    >>> def scale_rule(module, inputs, grad):
    ...     return {"gamma": (grad * inputs[0]).reshape(len(grad), -1, grad.shape[-1]).sum(1)}
    >>> register_rule(Scale, scale_rule)

    The layer must return one tensor. A wrong rule does no harm: the probe's self-check compares the
    sum over the examples with the gradient that torch computes, and leaves out parameters for which
    they differ. If per-example gradients are too large to build, return a
    :class:`~lightning_noise.probes.examples.contribution.Contribution` instead, such as
    :class:`~lightning_noise.probes.examples.outer.Outer` for Σ_t g_t a_tᵀ.

    A rule that has more to declare (sketches, operands that need no inputs, half precision, why an
    instance cannot be served) is an instance of a subclass of
    :class:`~lightning_noise.probes.examples.rule.Rule`. See ``rules/`` for examples.

    Args:
        module_type: the layer's class. Subclasses that leave ``forward`` as it is are served too.
        rule: a function as above, or a ``Rule``.

    Raises:
        TypeError: ``module_type`` is not a class of modules, or the rule is neither a ``Rule`` nor
            callable.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type must be a subclass of torch.nn.Module, got {module_type!r}.")
    if isinstance(rule, Rule):
        _rules[module_type] = rule.read
    elif callable(rule):
        positions_first = _had_positions_first(module_type)
        _rules[module_type] = FunctionRule(rule, positions_first).read
    else:
        kinds = "callable as rule(module, inputs, grad), or an instance of Rule"
        raise TypeError(f"rule must be {kinds}, got {rule!r}.")


def _had_positions_first(module_type: type[nn.Module]) -> bool:
    """A function does not declare where positions are: take it from the class of torch."""
    return issubclass(module_type, (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm))


def find_reader(module: nn.Module) -> Reader | str:
    """What reads the rule for a module from the module, or the reason why there is none.

    >>> find_reader(nn.LSTM(1, 1))
    'no rule for LSTM'
    """
    kind = type(module)
    if kind is NonDynamicallyQuantizableLinear:
        return "MultiheadAttention calls it as a function"
    for base in kind.__mro__:
        if base not in _rules:
            continue
        if kind.forward is not base.forward or "forward" in vars(module):
            return f"{_name(kind)} overrides the forward of {_name(base)}"
        reader = _rules[base]
        return reader(module).refuses() or reader
    return f"no rule for {_name(kind)}"


def find_rule(module: nn.Module) -> Rule | str:
    """The rule that serves a module, with its arguments, or the reason why none does."""
    reader = find_reader(module)
    if isinstance(reader, str):
        return reader
    return reader(module)


def _name(kind: type) -> str:
    """The name of a class; with its module where another class of that name has a rule."""
    for known in _rules:
        if known is not kind and known.__name__ == kind.__name__:
            return f"{kind.__module__}.{kind.__qualname__}"
    return kind.__name__
