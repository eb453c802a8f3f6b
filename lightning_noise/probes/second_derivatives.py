"""Quadratic forms vᵀHv of a loss's Hessian (or Gauss-Newton matrix) H, for a few vectors v of the
size of the gradient.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import Node

from lightning_noise.probes.norms import CHUNK

Vector = Sequence[Tensor]  # one tensor per parameter
LENGTHS = (1e-2, 5e-3)  # of finite differences, relative to the length of the parameters
DISAGREE = 0.1
REENTRANT = "CheckpointFunctionBackward"  # of torch.utils.checkpoint, and of what imitates it


class NoSecondDerivativeError(RuntimeError):
    """An operator in the loss's graph has no double backward."""


class ReentrantCheckpointError(RuntimeError):
    """Part of the model is checkpointed in the way that ``torch.autograd.grad`` cannot follow."""

    def __init__(self) -> None:
        super().__init__(
            "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint: torch.autograd.grad, "
            "which measures here, does not work through reentrant gradient checkpointing."
        )

    def __reduce__(self) -> tuple[type["ReentrantCheckpointError"], tuple[()]]:
        return ReentrantCheckpointError, ()


class DifferencesDisagreeError(RuntimeError):
    """Central differences at two lengths are further apart than a tenth, so neither can
    be trusted.
    """


def inner(left: Vector, right: Vector) -> Tensor:
    """Σ left·right over all tensors as an fp64 scalar on their device, summed by chunks: a flat
    fp32 sum is off by 1e-3.

    >>> float(inner([torch.ones(2, 2), torch.ones(1)], [torch.full((2, 2), 3.0), torch.ones(1)]))
    13.0
    """
    total = torch.zeros((), dtype=torch.float64, device=left[0].device)
    for a, b in zip(left, right, strict=True):
        products = (a.detach() * b.detach()).flatten()
        if products.dtype not in (torch.float32, torch.float64):
            products = products.float()
        whole = products.numel() // CHUNK * CHUNK
        total += (
            products[:whole].view(-1, CHUNK).sum(1).double().sum() + products[whole:].double().sum()
        )
    return total


def hessian_forms(loss: Tensor, parameters: Vector, vectors: Sequence[Vector]) -> Tensor:
    """vᵀHv for each vector by double backward through ``loss``, fp64 of shape (vectors,). The graph
    stays for a later backward.

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
        refuse_opaque([g for g in first if g is not None])
        return torch.stack([_form(first, parameters, vector) for vector in vectors])


def _form(first: Sequence[Tensor | None], parameters: Vector, vector: Vector) -> Tensor:
    parts = [
        (g * v).sum()
        for g, v in zip(first, vector, strict=True)
        if g is not None and g.requires_grad
    ]
    if not parts:  # the gradient does not depend on the parameters: no curvature at all
        return torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    slope = torch.stack(parts).sum()
    product = torch.autograd.grad(
        slope, parameters, retain_graph=True, materialize_grads=True
    )  # Hv
    return inner(vector, product)


def refuse_opaque(tensors: Sequence[Tensor]) -> None:
    """Raises for functions marked ``once_differentiable``: ``autograd.grad`` silently omits them.

    Raises:
        NoSecondDerivativeError: there is one in the graph of ``tensors``.
    """
    if any(node.name() == "torch::autograd::Error" for node in _graph_of(tensors)):
        where = "a function in the graph of the loss"
        raise NoSecondDerivativeError(f"{where} is marked once_differentiable.")


def refuse_reentrant(loss: Tensor) -> None:
    """Raises for a reentrant checkpoint: ``autograd.grad`` cannot enter it, or silently omits it.

    Raises:
        ReentrantCheckpointError: there is one in the graph of ``loss``.
    """
    if any(node.name() == REENTRANT for node in _graph_of([loss])):
        raise ReentrantCheckpointError


def _graph_of(tensors: Sequence[Tensor]) -> set[Node]:
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        for further, _ in waiting.pop().next_functions:
            if further is not None and further not in seen:
                seen.add(further)
                waiting.append(further)
    return seen


@contextmanager
def naming_failures() -> Iterator[None]:
    """Raises torch's own errors as what they are; torch tells them apart by their words alone.

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
    """(Jv)ᵀ(∂²loss/∂outputs²)(Jv) for each vector, J the Jacobian of ``outputs``; never negative
    for a convex loss.

    ``loss`` must have been computed from ``outputs`` and depend on the parameters only through
    them.

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
        return torch.stack(
            [_gauss_newton_form(slope, outputs, parameters, vector) for vector in vectors]
        )


def _gauss_newton_form(
    slope: Tensor, outputs: Tensor, parameters: Vector, vector: Vector
) -> Tensor:
    dummy = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(
        outputs, parameters, dummy, create_graph=True, allow_unused=True
    )  # Jᵀ·dummy
    refuse_opaque([g for g in pulled if g is not None])
    parts = [(g * v).sum() for g, v in zip(pulled, vector, strict=True) if g is not None]
    (moved,) = torch.autograd.grad(torch.stack(parts).sum(), dummy, retain_graph=True)  # Jv
    if not slope.requires_grad:
        return torch.zeros((), dtype=torch.float64, device=outputs.device)
    (bent,) = torch.autograd.grad(slope, outputs, moved, retain_graph=True, materialize_grads=True)
    return inner([moved], [bent])


def difference_forms(
    gradient: Callable[[], Vector], parameters: Vector, vectors: Sequence[Vector]
) -> Tensor:
    """vᵀHv from central differences of ``gradient`` at two lengths, where there is no double
    backward.

    The parameters are moved and put back to the last bit, also after an exception. ``gradient``
    must give the same randomness at every call.

    Raises:
        DifferencesDisagreeError: the two lengths give values further apart than a tenth of the
            larger.
    """
    return torch.stack([_difference_form(gradient, parameters, vector) for vector in vectors])


def _difference_form(gradient: Callable[[], Vector], parameters: Vector, vector: Vector) -> Tensor:
    length = math.sqrt(float(inner(vector, vector)))
    if length == 0:
        return torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    size = math.sqrt(float(inner(parameters, parameters))) or 1.0
    found = []
    for relative in LENGTHS:
        step = relative * size / length
        ahead = inner(vector, _gradient_at(gradient, parameters, vector, step))
        behind = inner(vector, _gradient_at(gradient, parameters, vector, -step))
        found.append((ahead - behind) / (2 * step))
    far, near = (float(value) for value in found)
    if not abs(far - near) <= DISAGREE * max(abs(far), abs(near)):
        raise DifferencesDisagreeError(
            f"central differences of the loss at two step lengths give {far:.4g} and {near:.4g} "
            f"for the curvature, which are "
            f"further apart than {DISAGREE:.0%}. Use float64, a larger batch, or operators that "
            f"have a double backward."
        )
    return found[1]


def _gradient_at(
    gradient: Callable[[], Vector], parameters: Vector, vector: Vector, step: float
) -> Vector:
    kept = [p.data for p in parameters]
    try:
        for p, v in zip(parameters, vector, strict=True):
            p.data = p.data.add(
                v, alpha=step
            )  # another storage, not a change in place: a graph that waits stays valid
        return gradient()
    finally:
        for p, original in zip(parameters, kept, strict=True):
            p.data = original
