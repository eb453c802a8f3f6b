"""In which precision products of gradients and inputs are taken."""

import math

import torch
from torch import Tensor

HALF = frozenset({torch.float16, torch.bfloat16})
SUMS_HALF_IN_FLOAT = {"cuda"}  # devices


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision in which sums are taken: fp64 stays, everything else is fp32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def factors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in one precision for large products.

    That is their own where the device sums half precision in fp32, else the working one.
    """
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) == 1 and kinds <= HALF and tensors[0].device.type in SUMS_HALF_IN_FLOAT:
        return tensors
    return tuple(working(tensor) for tensor in tensors)


def shrinkage(signs: int, factor: Tensor) -> float:
    """A power of two for the signs, 1 but in half precision.

    With it a sketch is no larger than the gradient that it stands for.
    """
    return 2.0 ** -round(math.log2(signs) / 2) if factor.dtype in HALF else 1.0


def row_norms(matrix: Tensor) -> Tensor:
    """Norms of the rows, summed in fp32 at least."""
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=dtype)
    return norms
