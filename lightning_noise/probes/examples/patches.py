"""Gradients of convolution weights: sums over output positions of g times the patch seen there."""

from operator import mul
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
    """A convolution: sizes per spatial dimension, and zeros ``before`` and ``after`` the input."""

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


def windows(
    tensor: Tensor,
    kernel: Ints,
    dilation: Ints,
    out: Ints,
    stride: Ints,
) -> Tensor:
    """The window that every output position sees: a view (N, C, \\*kernel, \\*out)."""
    tensor = tensor.contiguous()
    outer_steps = tensor.stride()[:2]
    space_steps = tensor.stride()[2:]
    kernel_steps = map(mul, space_steps, dilation)
    out_steps = map(mul, space_steps, stride)
    size = (*tensor.shape[:2], *kernel, *out)
    steps = (*outer_steps, *kernel_steps, *out_steps)
    return tensor.as_strided(size, steps)


class Patches(Contribution):
    """c_i[o, c, k] = Σ_p g_i[o, p] x_i[c, p·stride + k·dilation], one block per group of channels.

    Args:
        grad: gradient at the output, shape (B, C_out, \\*out).
        inputs: shape (B, C_in, \\*space).
        geometry: of the convolution.
    """

    def __init__(
        self,
        grad: Tensor,
        inputs: Tensor,
        geometry: Geometry,
    ) -> None:
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
        if small < 1:
            dense = dense * small
        count = self.examples * self.groups
        per_group = form.signs // self.groups
        by_group = dense.view(self.examples, -1, self.groups, per_group).transpose(1, 2)
        by_group = by_group.reshape(count, dense.shape[1], -1)
        grad = self.grad.reshape(count, self.rows, -1)
        if form.side == "cols":
            sketch = torch.bmm(self._project_patches(by_group), grad.transpose(1, 2))
        else:
            sketch = self._spread_back(torch.bmm(by_group, grad))
        if small < 1:
            return sketch.float() / small
        return sketch

    def _pointwise_inputs(self) -> Tensor | None:
        """What every output position sees, (B · groups, C_in / groups, positions).

        ``None`` unless the kernel is a point and nothing is padded.
        """
        geometry = self.geometry
        if any(points > 1 for points in geometry.kernel) or any(geometry.pads()):
            return None
        strided: list[Any] = [...]
        strided += [slice(None, None, step) for step in geometry.stride]
        seen = self.inputs[tuple(strided)]
        return seen.reshape(self.examples * self.groups, self.width, -1)

    def _project_patches(self, signs: Tensor) -> Tensor:
        """Every patch of x times r, shape (B · groups, m, positions).

        It is a convolution with kernels r and the examples as groups.
        """
        points = self._pointwise_inputs()
        if points is not None:
            return torch.bmm(signs, points)
        pads = self.geometry.pads()
        padded = self.inputs
        if any(pads):
            padded = functional.pad(padded, pads)
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

        The thin v is unfolded, not the wide input. It is laid out on the input's grid once for
        every kernel position, so that a single product with the input gives the whole sum.
        """
        points = self._pointwise_inputs()
        if points is not None:
            return torch.bmm(projected, points.transpose(1, 2))
        kernel = self.geometry.kernel
        count, sketches, _ = projected.shape
        space = self.inputs.shape[2:]
        grid = self._on_input_grid(projected)
        ones = (1,) * len(space)
        # (N, m, *kernel, *space)
        spread = windows(grid, kernel, self.geometry.dilation, tuple(space), ones)
        spread = spread.reshape(count, -1, space.numel())
        inputs = self.inputs.reshape(count, self.width, -1)
        sketch = torch.bmm(spread, inputs.transpose(1, 2))
        # the windows run against the kernel: flipped, so that all uses of the weight agree
        kernel_dims = tuple(range(2, 2 + len(kernel)))
        sketch = sketch.view(count, sketches, *kernel, self.width).flip(kernel_dims)
        return sketch.movedim(-1, 2).reshape(count, sketches, -1)

    def _on_input_grid(self, projected: Tensor) -> Tensor:
        """v spread over the positions of the input, with margins for the kernel's reach."""
        kernel, stride, dilation, before, _, _ = self.geometry
        count, sketches, _ = projected.shape
        sizes: list[int] = []
        strided: list[Any] = [...]
        pads: list[int] = []  # last dimension first
        space = self.inputs.shape[2:]
        for dim, needed in enumerate(space):
            size = (self.out[dim] - 1) * stride[dim] + 1
            sizes.append(size)
            strided.append(slice(None, None, stride[dim]))
            first = (kernel[dim] - 1) * dilation[dim] - before[dim]
            # negative where outputs see nothing but padding: cut off
            last = needed + before[dim] - size
            pads = [first, last, *pads]
        grid = projected.new_zeros(count, sketches, *sizes)
        grid[tuple(strided)] = projected.view(count, sketches, *self.out)
        return functional.pad(grid, pads)

    def exact_is_cheap(self, sketches: int) -> bool:
        """Where there are no more output positions than sketches."""
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
        """Norms of the unfolded problem, some examples at a time."""
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
