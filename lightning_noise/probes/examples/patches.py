"""Gradients of convolution weights: sums over output positions of g with the patch seen there."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn import grad as weight_grad

from lightning_noise.probes.examples.contribution import Contribution, Form, slices
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.precision import factors, shrinkage, working

Ints = tuple[int, ...]
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_WEIGHT = {
    1: weight_grad.conv1d_weight,
    2: weight_grad.conv2d_weight,
    3: weight_grad.conv3d_weight,
}


class Geometry(NamedTuple):
    """A convolution: sizes by spatial dimension; ``before`` and ``after`` count zeros around it."""

    kernel: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    groups: int

    def pads(self) -> list[int]:
        """As ``functional.pad`` takes them: last dimension first."""
        pads: list[int] = []
        for before, after in zip(self.before, self.after, strict=True):
            pads = [before, after, *pads]
        return pads


def windows(tensor: Tensor, kernel: Ints, dilation: Ints, out: Ints, stride: Ints) -> Tensor:
    """The window that every output position sees: a view (N, C, \\*kernel, \\*out)."""
    tensor = tensor.contiguous()
    steps = tensor.stride()
    return tensor.as_strided(
        (*tensor.shape[:2], *kernel, *out),
        (
            *steps[:2],
            *(step * d for step, d in zip(steps[2:], dilation, strict=True)),
            *(step * s for step, s in zip(steps[2:], stride, strict=True)),
        ),
    )


class Patches(Contribution):
    """c_i[o, c, k] = Σ_p g_i[o, p] x_i[c, p·stride + k·dilation], one block per group of channels.

    Args:
        grad: gradient at the output, shape (B, C_out, \\*out).
        inputs: shape (B, C_in, \\*space).
        geometry: of the convolution.
    """

    def __init__(self, grad: Tensor, inputs: Tensor, geometry: Geometry) -> None:
        self.grad, self.inputs = factors(grad, inputs)
        self.geometry = geometry
        self.examples = len(grad)
        self.groups = geometry.groups
        self.out = tuple(grad.shape[2:])
        self.rows = grad.shape[1] // self.groups  # output channels of one group
        self.width = inputs.shape[1] // self.groups  # input channels of one group
        self.cols = self.width * torch.Size(geometry.kernel).numel()
        self.numbers = grad.shape[1] * self.cols

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B · groups, m, ·).

        The last dimension is C_out / groups along the columns, C_in / groups · kernel along the
        rows.
        """
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        small = shrinkage(form.signs, self.grad)
        dense = signs.dense(self.grad.dtype)
        dense = dense * small if small < 1 else dense
        count = self.examples * self.groups
        by_group = dense.view(self.examples, -1, self.groups, form.signs // self.groups)
        by_group = by_group.transpose(1, 2).reshape(count, dense.shape[1], -1)
        grad = self.grad.reshape(count, self.rows, -1)
        if form.side == "cols":
            sketch = torch.bmm(self._project_patches(by_group), grad.transpose(1, 2))
        else:
            sketch = self._spread_back(torch.bmm(by_group, grad))
        return sketch.float() / small if small < 1 else sketch

    def _project_patches(self, signs: Tensor) -> Tensor:
        """x patch · r, shape (B · groups, m, positions).

        It is a convolution with kernels r and the examples as groups.
        """
        pads = self.geometry.pads()
        padded = functional.pad(self.inputs, pads) if any(pads) else self.inputs
        kernels = signs.reshape(-1, self.width, *self.geometry.kernel)
        convolve = CONV[len(self.out)]
        projected = convolve(
            padded.reshape(1, -1, *padded.shape[2:]),
            kernels,
            stride=self.geometry.stride,
            dilation=self.geometry.dilation,
            groups=len(signs),
        )
        return projected.view(len(signs), signs.shape[1], -1)

    def _spread_back(self, projected: Tensor) -> Tensor:
        """Σ_p v[p] x[c, p·stride + k·dilation] for v of shape (B · groups, m, positions).

        Not the wide input is unfolded but the thin v: it is laid out on the input's grid once for
        every kernel position, which makes all of it one product with the input.
        """
        kernel, stride, dilation, before, _, _ = self.geometry
        count, sketches, _ = projected.shape
        space = self.inputs.shape[2:]
        spaced = [(n - 1) * s + 1 for n, s in zip(self.out, stride, strict=True)]
        grid = projected.new_zeros(count, sketches, *spaced)
        here: list[Any] = [..., *(slice(None, None, s) for s in stride)]
        grid[tuple(here)] = projected.view(count, sketches, *self.out)
        pads: list[int] = []
        for n, size, k, d, pad in zip(space, grid.shape[2:], kernel, dilation, before, strict=True):
            reach = (k - 1) * d
            # negative where outputs see nothing but padding: cut off
            pads = [reach - pad, n + pad - size, *pads]
        ones = (1,) * len(space)
        grid = functional.pad(grid, pads)
        spread = windows(grid, kernel, dilation, tuple(space), ones)  # (N, m, *kernel, *space)
        spread = spread.reshape(count, -1, torch.Size(space).numel())
        sketch = torch.bmm(spread, self.inputs.reshape(count, self.width, -1).transpose(1, 2))
        # the grid is walked against the kernel; turned around, so that all uses of the weight agree
        turned = [2 + dim for dim in range(len(kernel))]
        sketch = sketch.view(count, sketches, *kernel, self.width).flip(turned)
        return sketch.movedim(-1, 2).reshape(count, sketches, -1)

    def exact_is_cheap(self, sketches: int) -> bool:
        """With as few output positions as there are sketches."""
        return torch.Size(self.out).numel() <= sketches

    def _unfolded(self, rows: slice) -> Outer:
        geometry = self.geometry
        padded = functional.pad(working(self.inputs[rows]), geometry.pads())
        seen = windows(padded, geometry.kernel, geometry.dilation, self.out, geometry.stride)
        count = len(padded) * self.groups
        patches = seen.reshape(count, self.cols, -1)
        grad = working(self.grad[rows]).reshape(count, self.rows, -1)
        return Outer(grad.transpose(1, 2), patches.transpose(1, 2))

    def norms(self) -> list[Tensor]:
        """Those of the unfolded problem, some examples at a time."""
        size = self.groups * self.cols * torch.Size(self.out).numel()
        found: list[Tensor] = []
        for rows in slices(self.examples, size):
            found += self._unfolded(rows).norms()
        return found

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, C_out, C_in / groups, \\*kernel)."""
        outer = self._unfolded(rows)
        shape = (-1, self.groups * self.rows, self.width, *self.geometry.kernel)
        return outer.build(slice(0, outer.examples)).reshape(shape)

    def total(self) -> Tensor:
        """As in the layer's own backward pass."""
        padded = functional.pad(working(self.inputs), self.geometry.pads())
        shape = (self.groups * self.rows, self.width, *self.geometry.kernel)
        weight: Any = CONV_WEIGHT[len(self.out)]  # untyped in torch
        found: Tensor = weight(
            padded,
            shape,
            working(self.grad),
            stride=self.geometry.stride,
            dilation=self.geometry.dilation,
            groups=self.groups,
        )
        return found
