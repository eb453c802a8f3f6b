"""Transposed convolutions: their weight's gradient is that of a convolution, sides exchanged."""

from torch import Tensor

from lightning_noise.probes.examples.patches import Geometry, Ints, Patches
from lightning_noise.probes.examples.rules.convolution import ConvolutionRule


class TransposedConvolutionRule(ConvolutionRule):
    """weight: an outer product at every input position; bias: Σ g over space.

    The output's gradient, convolved with the weight, is the gradient at the input. So the weight
    sees that gradient where the weight of a convolution sees its input. Here ``padding`` is the
    number of rows that are cut off on both sides of the output.
    """

    op = "transposed convolution"

    def __init__(self, stride: Ints, padding: Ints, dilation: Ints, groups: int = 1) -> None:
        super().__init__(stride, padding, dilation, groups)
        self._cut = padding

    def _weight(self, kernel: Ints, x: Tensor, grad: Tensor) -> Patches:
        cut = self._cut
        geometry = Geometry(kernel, self.stride, self.dilation, cut, cut, self.groups)
        return Patches(x, grad, geometry)
