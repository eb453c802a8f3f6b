"""Gradients of convolution weights: sums of outer products over output positions, of g with the patch that each one sees."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn import grad as weight_grad

from lightning_noise.probes.examples.contribution import Contribution, Form, factors, shrinkage, slices, working
from lightning_noise.probes.examples.directions import Signs
from lightning_noise.probes.examples.outer import Outer

Ints = tuple[int, ...]
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_WEIGHT = {1: weight_grad.conv1d_weight, 2: weight_grad.conv2d_weight, 3: weight_grad.conv3d_weight}


class Geometry(NamedTuple):
    """A convolution: sizes by spatial dimension; ``before`` and ``after`` are the zeros around the input."""

    kernel: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    groups: int

    def pads(self) -> list[int]:
        """As ``functional.pad`` takes them: last dimension first."""
        return [pad for pair in zip(reversed(self.before), reversed(self.after), strict=True) for pad in pair]


def windows(tensor: Tensor, kernel: Ints, dilation: Ints, out: Ints, stride: Ints) -> Tensor:
    """The window that every output position sees: (N, C, \\*space) → view (N, C, \\*kernel, \\*out)."""
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
    """c_i[o, c, k] = Σ_p g_i[o, p] x_i[c, p·stride + k·dilation], one such block for every group of channels.

    Args:
        grad: gradient at the output, shape (B, C_out, \\*out).
        inputs: shape (B, C_in, \\*space).
        geometry: of the convolution.
    """

    def __init__(self, grad: Tensor, inputs: Tensor, geometry: Geometry) -> None:
        self.grad, self.inputs = factors(grad, inputs)
        self.geometry = geometry
        self.examples, self.groups = len(grad), geometry.groups
        self.out = tuple(grad.shape[2:])
        self.rows, self.width = grad.shape[1] // self.groups, inputs.shape[1] // self.groups  # channels of one group
        self.cols = self.width * torch.Size(geometry.kernel).numel()
        self.numbers = grad.shape[1] * self.cols

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """Shape (B · groups, m, C_out / groups) along the columns, (B · groups, m, C_in / groups · kernel) along the rows."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        small = shrinkage(form, self.grad)
        dense = signs.dense(self.grad.dtype) * small if small < 1 else signs.dense(self.grad.dtype)
        count = self.examples * self.groups
        by_group = dense.view(self.examples, -1, self.groups, form.signs // self.groups).transpose(1, 2)
        by_group = by_group.reshape(count, dense.shape[1], -1)  # (B · groups, m, signs of a group)
        grad = self.grad.reshape(count, self.rows, -1)
        if form.side == "cols":
            sketch = torch.bmm(self._project_patches(by_group), grad.transpose(1, 2))
        else:
            sketch = self._spread_back(torch.bmm(by_group, grad))
        return sketch.float() / small if small < 1 else sketch

    def _project_patches(self, signs: Tensor) -> Tensor:
        """(x patch · r), a convolution with kernels r and the examples as groups: (B · groups, m, positions)."""
        padded = functional.pad(self.inputs, self.geometry.pads()) if any(self.geometry.pads()) else self.inputs
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

        Not the wide input is unfolded but the thin v: it is laid out on the input's grid once for every kernel position,
        which makes all of it one product with the input.
        """
        kernel, stride, dilation, before, _, _ = self.geometry
        count, sketches, _ = projected.shape
        space = self.inputs.shape[2:]
        grid = projected.new_zeros(count, sketches, *((n - 1) * s + 1 for n, s in zip(self.out, stride, strict=True)))
        here: list[Any] = [..., *(slice(None, None, s) for s in stride)]
        grid[tuple(here)] = projected.view(count, sketches, *self.out)
        pads: list[int] = []
        for n, size, k, d, pad in zip(space, grid.shape[2:], kernel, dilation, before, strict=True):
            reach = (k - 1) * d
            pads = [reach - pad, n + pad - size, *pads]  # negative where outputs see nothing but padding: cut off
        ones = (1,) * len(space)
        spread = windows(functional.pad(grid, pads), kernel, dilation, tuple(space), ones)  # (N, m, *kernel, *space)
        spread = spread.reshape(count, -1, torch.Size(space).numel())
        sketch = torch.bmm(spread, self.inputs.reshape(count, self.width, -1).transpose(1, 2))
        # the grid is walked against the kernel; turned around, so that all uses of the weight agree
        sketch = sketch.view(count, sketches, *kernel, self.width).flip([2 + i for i in range(len(kernel))])
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
        return Outer(working(self.grad[rows]).reshape(count, self.rows, -1).transpose(1, 2), patches.transpose(1, 2))

    def norms(self) -> list[Tensor]:
        """Those of the unfolded problem, some examples at a time."""
        size = self.groups * self.cols * torch.Size(self.out).numel()
        return [norm for rows in slices(self.examples, size) for norm in self._unfolded(rows).norms()]

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, C_out, C_in / groups, \\*kernel)."""
        outer = self._unfolded(rows)
        shape = (-1, self.groups * self.rows, self.width, *self.geometry.kernel)
        return outer.build(slice(0, outer.examples)).reshape(shape)

    def total(self) -> Tensor:
        """As in the layer's own backward pass."""
        padded = functional.pad(working(self.inputs), self.geometry.pads())
        shape = (self.groups * self.rows, self.width, *self.geometry.kernel)
        options = {"stride": self.geometry.stride, "dilation": self.geometry.dilation, "groups": self.groups}
        weight: Any = CONV_WEIGHT[len(self.out)]  # untyped in torch
        return weight(padded, shape, working(self.grad), **options)  # type: ignore[no-any-return]
