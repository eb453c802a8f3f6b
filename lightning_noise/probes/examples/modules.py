"""Which operation a module of torch is, and where it keeps the operation's arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import nn

from lightning_noise.probes.examples.rule import Rule
from lightning_noise.probes.examples.rules.bilinear import BilinearRule
from lightning_noise.probes.examples.rules.convolution import ConvolutionRule
from lightning_noise.probes.examples.rules.embedding import EmbeddingRule
from lightning_noise.probes.examples.rules.linear import LinearRule
from lightning_noise.probes.examples.rules.norms import (
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
    RMSNormRule,
)
from lightning_noise.probes.examples.rules.transposed_convolution import TransposedConvolutionRule

Reader = Callable[[Any], Rule]  # the rule for a module, with its arguments read
Conv: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"
ConvTranspose: TypeAlias = "nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"
AnyInstanceNorm: TypeAlias = "nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d"


def _convolution(module: Conv) -> ConvolutionRule:
    padding = module.padding
    if not isinstance(padding, str):
        padding = tuple(padding)
    return ConvolutionRule(
        stride=tuple(module.stride),
        padding=padding,
        dilation=tuple(module.dilation),
        groups=module.groups,
        mode=module.padding_mode,
    )


def _transposed_convolution(module: ConvTranspose) -> TransposedConvolutionRule:
    return TransposedConvolutionRule(
        stride=tuple(module.stride),
        padding=tuple(int(n) for n in module.padding),
        dilation=tuple(module.dilation),
        groups=module.groups,
    )


def _embedding(module: nn.Embedding) -> EmbeddingRule:
    return EmbeddingRule(module.padding_idx, module.sparse, module.scale_grad_by_freq)


def _layer_norm(module: nn.LayerNorm) -> LayerNormRule:
    return LayerNormRule(module.eps)


def _rms_norm(module: nn.RMSNorm) -> RMSNormRule:
    return RMSNormRule(module.eps)


def _group_norm(module: nn.GroupNorm) -> GroupNormRule:
    return GroupNormRule(module.num_groups, module.eps)


def _instance_norm(module: AnyInstanceNorm, space: int) -> InstanceNormRule:
    mean, variance = module.running_mean, module.running_var
    if module.training or mean is None or variance is None:
        return InstanceNormRule(space, module.eps, None)
    return InstanceNormRule(space, module.eps, (mean, variance))


READERS: dict[type[nn.Module], Reader] = {
    nn.Linear: LinearRule().read,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _transposed_convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.ConvTranspose3d: _transposed_convolution,
    nn.Bilinear: BilinearRule().read,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: partial(_instance_norm, space=1),
    nn.InstanceNorm2d: partial(_instance_norm, space=2),
    nn.InstanceNorm3d: partial(_instance_norm, space=3),
}
