"""Quadratic forms vᵀHv of the Hessian or Gauss-Newton matrix H of a loss, for a few vectors v.

Each v has the shape of the gradient: one tensor per parameter.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from lightning_noise.probes.graph import walk
from lightning_noise.probes.norms import CHUNK

Vector = Sequence[Tensor]  # one tensor per parameter
LENGTHS = (1e-2, 5e-3)  # of finite differences, relative to the length of the parameters
DISAGREE = 0.1  # of the larger of two differences
OPAQUE = "torch::autograd::Error"  # of a function marked once_differentiable
REENTRANT = "CheckpointFunctionBackward"  # of torch.utils.checkpoint, and of what imitates it


class NoSecondDerivativeError(RuntimeError):
    """An operator in the loss's graph has no double backward."""


class ReentrantCheckpointError(RuntimeError):
    """Part of the model is checkpointed in a way that ``torch.autograd.grad`` cannot follow."""

    def __init__(self) -> None:
        super().__init__(
            "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint: this measurement uses "
            "torch.autograd.grad, which does not work through reentrant gradient checkpointing."
        )

    def __reduce__(self) -> tuple[type["ReentrantCheckpointError"], tuple[()]]:
        return ReentrantCheckpointError, ()


class DifferencesDisagreeError(RuntimeError):
    """Central differences at two lengths differ by more than a tenth: neither can be trusted."""


def inner(left: Vector, right: Vector) -> Tensor:
    """Σ left·right over all tensors as an fp64 scalar on their device.

    It is summed by chunks, because a flat fp32 sum is off by 1e-3.

    >>> float(inner([torch.ones(2, 2), torch.ones(1)], [torch.full((2, 2), 3.0), torch.ones(1)]))
    13.0
    """
    total = _zero(left[0].device)
    for a, b in zip(left, right, strict=True):
        products = (a.detach() * b.detach()).flatten()
        if products.dtype not in (torch.float32, torch.float64):
            products = products.float()
        whole = products.numel() // CHUNK * CHUNK
        by_chunk = products[:whole].view(-1, CHUNK).sum(1)
        rest = products[whole:]
        total += by_chunk.double().sum() + rest.double().sum()
    return total


def _zero(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device)


def hessian_forms(
    loss: Tensor,
    parameters: Vector,
    vectors: Sequence[Vector],
) -> Tensor:
    """vᵀHv for each vector by double backward through ``loss``, fp64 of shape (vectors,).

    The graph is kept for a later backward pass.

    Raises:
        NoSecondDerivativeError: an operator has no double backward (attention on CPU, compiled
            code).
        ReentrantCheckpointError: the graph holds a reentrant checkpoint.

    >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> vectors = [[torch.tensor([1.0, 1.0])], [torch.tensor([1.0, 0.0])]]
    >>> hessian_forms((x[0] ** 2 + 4 * x[1] ** 2) / 2, [x], vectors)
    tensor([5., 1.], dtype=torch.float64)
    """
    refuse_reentrant(loss)
    with naming_failures():
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        refuse_opaque(first)
        return torch.stack([_form(first, parameters, vector) for vector in vectors])


def _form(
    first: Sequence[Tensor | None],
    parameters: Vector,
    vector: Vector,
) -> Tensor:
    parts = _products(first, vector)
    if not parts:  # the gradient does not depend on the parameters: no curvature at all
        return _zero(parameters[0].device)
    slope = torch.stack(parts).sum()
    # Hv
    product = torch.autograd.grad(slope, parameters, retain_graph=True, materialize_grads=True)
    return inner(vector, product)


def _products(gradients: Sequence[Tensor | None], vector: Vector) -> list[Tensor]:
    """g·v of every gradient that there is and that has a graph."""
    products = []
    for g, v in zip(gradients, vector, strict=True):
        if g is None or not g.requires_grad:
            continue
        product = (g * v).sum()
        products.append(product)
    return products


def refuse_opaque(tensors: Sequence[Tensor | None]) -> None:
    """Raises for functions marked ``once_differentiable``: ``autograd.grad`` silently omits them.

    Raises:
        NoSecondDerivativeError: there is one in the graph of ``tensors``.
    """
    if OPAQUE in _names_in_graph(tensors):
        where = "a function in the graph of the loss"
        raise NoSecondDerivativeError(f"{where} is marked once_differentiable.")


def refuse_reentrant(loss: Tensor) -> None:
    """Raises for a reentrant checkpoint: ``autograd.grad`` cannot enter it, or silently omits it.

    Raises:
        ReentrantCheckpointError: there is one in the graph of ``loss``.
    """
    if REENTRANT in _names_in_graph([loss]):
        raise ReentrantCheckpointError


def _names_in_graph(tensors: Sequence[Tensor | None]) -> set[str]:
    """Names of all nodes in the graphs of ``tensors``."""
    starts = [(tensor.grad_fn, 0) for tensor in tensors if tensor is not None]
    _, nodes = walk(starts, stops=())
    return {node.name() for node in nodes}


@contextmanager
def naming_failures() -> Iterator[None]:
    """Raises torch's errors about a missing double backward under their own class.

    torch distinguishes them from other errors by their text alone.

    Raises:
        NoSecondDerivativeError: an operator has no double backward.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if _lacks_double_backward(error):
            raise NoSecondDerivativeError(str(error)) from error
        raise


def _lacks_double_backward(error: BaseException) -> bool:
    text = str(error)
    return (
        "is not implemented" in text or "double backward" in text or "differentiate twice" in text
    )


def gauss_newton_forms(
    loss: Tensor, outputs: Tensor, parameters: Vector, vectors: Sequence[Vector]
) -> Tensor:
    """(Jv)ᵀ(∂²loss/∂outputs²)(Jv) for each vector, where J is the Jacobian of ``outputs``.

    It is never negative for a convex loss. ``loss`` must have been computed from ``outputs`` and
    depend on the parameters only through them.

    Raises:
        NoSecondDerivativeError, ReentrantCheckpointError: as :func:`hessian_forms`.
        ValueError: ``loss`` was not computed from ``outputs``.
    """
    refuse_reentrant(loss)
    with naming_failures():
        (slope,) = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
        if slope is None:
            raise ValueError(
                "loss_fn must return (loss, outputs) with the loss computed from these very "
                "outputs."
            )
        form = partial(_gauss_newton_form, slope, outputs, parameters)
        return torch.stack([form(vector) for vector in vectors])


def _gauss_newton_form(
    slope: Tensor,
    outputs: Tensor,
    parameters: Vector,
    vector: Vector,
) -> Tensor:
    dummy = torch.zeros_like(outputs, requires_grad=True)
    # Jᵀ·dummy
    pulled = torch.autograd.grad(outputs, parameters, dummy, create_graph=True, allow_unused=True)
    refuse_opaque(pulled)
    product = torch.stack(_products(pulled, vector)).sum()
    (moved,) = torch.autograd.grad(product, dummy, retain_graph=True)  # Jv
    if not slope.requires_grad:
        return _zero(outputs.device)
    (bent,) = torch.autograd.grad(slope, outputs, moved, retain_graph=True, materialize_grads=True)
    return inner([moved], [bent])


def difference_forms(
    gradient: Callable[[], Vector], parameters: Vector, vectors: Sequence[Vector]
) -> Tensor:
    """vᵀHv from central differences of ``gradient``, for losses without a double backward.

    They are taken at two lengths. The parameters are moved and restored to the last bit, also after
    an exception. ``gradient`` must use the same random numbers at every call.

    Raises:
        DifferencesDisagreeError: the values at the two lengths differ by more than a tenth of the
            larger one.
    """
    return torch.stack([_difference_form(gradient, parameters, vector) for vector in vectors])


def _difference_form(
    gradient: Callable[[], Vector],
    parameters: Vector,
    vector: Vector,
) -> Tensor:
    length = math.sqrt(float(inner(vector, vector)))
    if length == 0:
        return _zero(parameters[0].device)
    size = math.sqrt(float(inner(parameters, parameters))) or 1.0
    found = []
    for relative in LENGTHS:
        step = relative * size / length
        ahead = inner(vector, _gradient_at(gradient, parameters, vector, step))
        behind = inner(vector, _gradient_at(gradient, parameters, vector, -step))
        slope = (ahead - behind) / (2 * step)
        found.append(slope)
    far, near = map(float, found)
    largest = max(abs(far), abs(near))
    if not abs(far - near) <= DISAGREE * largest:  # also where one of them is not a number
        raise DifferencesDisagreeError(
            f"Use float64, a larger batch, or operators that have a double backward: central "
            f"differences of the loss at two step lengths give {far:.4g} and {near:.4g} for the "
            f"curvature, which differ by more than {DISAGREE:.0%}."
        )
    return found[1]


def _gradient_at(
    gradient: Callable[[], Vector], parameters: Vector, vector: Vector, step: float
) -> Vector:
    kept = [p.data for p in parameters]
    try:
        for p, v in zip(parameters, vector, strict=True):
            # another storage, not a change in place: a graph in use stays valid
            p.data = p.data.add(v, alpha=step)
        return gradient()
    finally:
        for p, original in zip(parameters, kept, strict=True):
            p.data = original
