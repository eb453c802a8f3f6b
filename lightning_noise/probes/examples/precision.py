"""The precision in which products of gradients and inputs are taken."""

import math

import torch
from torch import Tensor

HALF = frozenset({torch.float16, torch.bfloat16})
PRECISE = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})
SUMS_HALF_IN_FLOAT = {"cuda"}  # devices


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision of sums: fp64 stays as it is, everything else becomes fp32.

    Complex numbers stay complex.
    """
    if tensor.dtype in PRECISE:
        return tensor
    if tensor.is_complex():
        return tensor.to(torch.complex64)
    return tensor.float()


def factors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in one precision for large products.

    It is their own precision if the device sums half precision in fp32, else the working precision.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1 and dtypes <= HALF and tensors[0].device.type in SUMS_HALF_IN_FLOAT:
        return tensors
    return tuple(map(working, tensors))


def shrinkage(signs: int, factor: Tensor) -> float:
    """A power of two to multiply the signs by, which is 1 except in half precision.

    It keeps a sketch no larger than the gradient that it stands for.
    """
    if factor.dtype not in HALF:
        return 1.0
    half_exponent = round(math.log2(signs) / 2)
    return 2.0**-half_exponent


def row_norms(rows: Tensor) -> Tensor:
    """Norms of (B, 1, n) along the last dimension, (B,), summed in fp32 at least."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=(1, 2), dtype=dtype)
    return norms
