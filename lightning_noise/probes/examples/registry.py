"""Which rule serves which kind of layer, and how a user adds one."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_noise.probes.examples.contribution import Contribution, Form
from lightning_noise.probes.examples.rules.conv import ConvRule
from lightning_noise.probes.examples.rules.embedding import EmbeddingRule
from lightning_noise.probes.examples.rules.group_norm import GroupNormRule
from lightning_noise.probes.examples.rules.instance_norm import InstanceNormRule
from lightning_noise.probes.examples.rules.layer_norm import LayerNormRule
from lightning_noise.probes.examples.rules.linear import LinearRule
from lightning_noise.probes.examples.rules.rms_norm import RMSNormRule

Rule = Callable[[Any, tuple[Tensor, ...], Tensor], Mapping[str, "Tensor | Contribution"]]

_rules: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.Embedding: EmbeddingRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.RMSNorm: RMSNormRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.InstanceNorm1d: InstanceNormRule(),
    nn.InstanceNorm2d: InstanceNormRule(),
    nn.InstanceNorm3d: InstanceNormRule(),
}


def register_rule(module_type: type[nn.Module], rule: Rule) -> None:
    """Teaches the ``examples`` probe a kind of layer, or replaces the rule of one.

    ``rule(module, inputs, grad)`` gets the layer, the tensors it was called with and the gradient of the loss at its output,
    all with the examples along dimension 0, and returns for every parameter that the layer itself owns the gradients of the
    single examples, shape (B, \\*parameter.shape), by the parameter's name in the layer:

    >>> import torch
    >>> class Scale(nn.Module):
    ...     def __init__(self, width: int) -> None:
    ...         super().__init__()
    ...         self.gamma = nn.Parameter(torch.ones(width))
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         return self.gamma * x
    >>> def scale_rule(module, inputs, grad):
    ...     return {"gamma": (grad * inputs[0]).reshape(len(grad), -1, grad.shape[-1]).sum(1)}
    >>> register_rule(Scale, scale_rule)

    The layer must return one tensor. A wrong rule does no harm: the probe's self-check compares the sum over the examples with
    the gradient that torch computes, and leaves out what differs. Where per-example gradients are too large to build, return a
    :class:`~lightning_noise.probes.examples.contribution.Contribution` instead, such as
    :class:`~lightning_noise.probes.examples.outer.Outer` for Σ_t g_t a_tᵀ. A rule may be an object with more to say, as those
    in ``rules/``: ``parameters`` names those it serves; ``forms(module)`` offers sketches of them; ``without_inputs`` names
    parameters whose rule needs no inputs (they are then not kept); ``lowered`` says that autocast runs the layer in half
    precision; ``refuses(module)`` gives the reason why an instance is not covered;
    ``doubts(module, inputs)`` gives the reason why what came along dimension 0 may not have been
    examples. It is asked in the self-check, unless the check on mixing has shown that no row of the
    layer's output reaches another example.

    Args:
        module_type: the layer's class. Subclasses that leave ``forward`` as it is are served too.
        rule: see above.

    Raises:
        TypeError: ``module_type`` is not a class of modules, or the rule cannot be called.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type must be a subclass of torch.nn.Module, got {module_type!r}.")
    if not callable(rule):
        raise TypeError(f"rule must be callable as rule(module, inputs, grad), got {rule!r}.")
    _rules[module_type] = rule


def find_rule(module: nn.Module) -> Rule | str:
    """The rule that serves a module, or the reason why none does.

    >>> find_rule(nn.LSTM(1, 1))
    'no rule for LSTM'
    """
    for base in type(module).__mro__:
        if base in _rules:
            if type(module).forward is not base.forward or "forward" in vars(module):
                return f"{type(module).__name__} overrides the forward of {base.__name__}"
            refuses = getattr(_rules[base], "refuses", None)
            return (refuses and refuses(module)) or _rules[base]
    return f"no rule for {type(module).__name__}"


def forms_of(module: nn.Module, rule: Rule) -> Mapping[str, tuple[Form, ...]]:
    """Sketches that a rule offers, by the parameter's name in the module; none for what is built."""
    forms = getattr(rule, "forms", None)
    return forms(module) if forms is not None else {}
