"""The diagonal preconditioner that an optimizer uses, and squared norms weighted by it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_noise.probes.double_float import has_float64
from lightning_noise.probes.norms import as_dense, chunk_norms

State = dict[str, Tensor]  # of one parameter
Group = dict[str, Any]  # options of a group of parameters
Reader = Callable[[State, Group], Tensor | None]


class UnknownPreconditionerError(TypeError):
    """The optimizer is not one whose preconditioner can be read from its state."""


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises for an optimizer that :class:`Preconditioner` does not know.

    Raises:
        UnknownPreconditionerError: names the ones it knows.
    """
    _reader_for(optimizer)


class Preconditioner:
    """Diagonal P of any parameter as the next step of ``optimizer`` would use it.

    The step is along −P·(mean gradient). P is 1/(sqrt(v̂) + eps) for Adam, AdamW, NAdam and RAdam,
    with the largest v̂ under amsgrad; 1/(sqrt(v) + eps) for RMSprop, where v is centred with
    ``centered=True``; 1/(sqrt(sum) + eps) for Adagrad; and 1 for SGD. Neither the learning rate nor
    weight decay is part of P.

    A call returns a tensor of the parameter's shape, or of shape () where P is 1. It returns
    ``None`` while the optimizer has no state for the parameter.

    Raises:
        UnknownPreconditionerError: an optimizer of another kind. The error names the known ones.

    >>> weight = Parameter(torch.zeros(2))
    >>> optimizer = Adam([weight], eps=0.0)
    >>> weight.grad = torch.tensor([2.0, 0.5])
    >>> optimizer.step()
    >>> Preconditioner(optimizer)(weight)
    tensor([0.5000, 2.0000])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._reader = _reader_for(optimizer)
        self._groups: dict[int, Group] = {}  # by the id of each parameter

    def __call__(self, parameter: Parameter) -> Tensor | None:
        if id(parameter) not in self._groups:  # a group may have been added since (unfreezing)
            self._read_groups()
        state = self._optimizer.state.get(parameter, {})
        return self._reader(state, self._groups[id(parameter)])

    def _read_groups(self) -> None:
        self._groups = {}
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                self._groups[id(parameter)] = group


def _reader_for(optimizer: Optimizer) -> Reader:
    for kind, reader in _READERS.items():
        if isinstance(optimizer, kind):
            return reader
    known = ", ".join(kind.__name__ for kind in _READERS)
    raise UnknownPreconditionerError(
        f"geometry 'optimizer' reads the diagonal preconditioner of {known} and their subclasses "
        f"from their state, but the optimizer is {type(optimizer).__name__}. Use "
        "geometry='euclidean'."
    )


def _adam(state: State, group: Group) -> Tensor | None:
    if "exp_avg_sq" not in state:
        return None
    second = state["exp_avg_sq"]
    if "max_exp_avg_sq" in state:
        second = state["max_exp_avg_sq"]
    beta = group["betas"][1]
    correction = bias_correction(beta, state["step"])
    return _inverse((second / correction).to(second.dtype), group["eps"])


def bias_correction(beta: float, step: Tensor) -> Tensor | float:
    """1 − beta^step of a moving average that began at zero, to the precision of fp32 at least.

    The step is on the host unless the optimizer is capturable or fused. Then it is not read, which
    would wait for the device.

    >>> round(bias_correction(0.999, torch.tensor(1.0)), 12)
    0.001
    """
    if step.device.type == "cpu" and has_float64(step.device):
        return float(1 - beta ** float(step))
    if has_float64(step.device):
        return 1 - beta ** step.double()
    if beta == 0:
        return 1.0
    # in fp32 the difference itself would keep few digits of a small correction
    return -torch.expm1(step * math.log(beta))


def _rmsprop(state: State, group: Group) -> Tensor | None:
    if "square_avg" not in state:
        return None
    square = state["square_avg"]
    if "grad_avg" in state:  # centred
        square = square - state["grad_avg"].square()
    return _inverse(square, group["eps"])


def _adagrad(state: State, group: Group) -> Tensor | None:
    if "sum" not in state or not float(state["step"]):
        return None
    return _inverse(state["sum"], group["eps"])


def _sgd(state: State, group: Group) -> Tensor | None:
    return torch.ones(())


def _inverse(square: Tensor, eps: float) -> Tensor:
    return square.clamp(min=0).sqrt().add_(eps).reciprocal_()


_READERS: dict[type[Optimizer], Reader] = {
    AdamW: _adam,
    Adam: _adam,
    NAdam: _adam,
    RAdam: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    SGD: _sgd,
}


def weighted_chunk_norms(gradient: Tensor, diagonal: Tensor) -> list[Tensor]:
    """Norms of chunks of P^(1/2)·gradient, whose squares sum to gᵀPg.

    It needs one temporary tensor of the parameter's size.
    """
    if diagonal.ndim == 0:
        return [norms * diagonal.to(norms).sqrt() for norms in chunk_norms(gradient)]
    weighted = diagonal.sqrt().mul_(as_dense(gradient.detach()))
    return chunk_norms(weighted)
