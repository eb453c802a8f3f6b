"""The diagonal preconditioner that an optimizer has in use, and squared norms weighted by it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_noise.probes.norms import as_dense, chunk_norms


class UnknownPreconditionerError(TypeError):
    """The optimizer is not one whose preconditioner can be read from its state."""


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises for an optimizer that :class:`Preconditioner` does not know.

    Raises:
        UnknownPreconditionerError: names the ones it knows.
    """
    if not isinstance(optimizer, tuple(_READERS)):
        known = ", ".join(kind.__name__ for kind in _READERS)
        raise UnknownPreconditionerError(
            f"geometry 'optimizer' reads the diagonal preconditioner of {known} and their "
            f"subclasses from their state, but the "
            f"optimizer is {type(optimizer).__name__}. Use geometry='euclidean'."
        )


class Preconditioner:
    """Diagonal P of any parameter as the next step of ``optimizer`` would use it: the step is along
    −P·(mean gradient).

    Adam, AdamW, NAdam, RAdam: 1/(sqrt(v̂) + eps), with the largest v̂ under amsgrad; RMSprop:
    1/(sqrt(v) + eps), centred where it is; Adagrad: 1/(sqrt(sum) + eps); SGD: 1 everywhere. The
    learning rate is no part of it, nor is weight decay. Calling gives a tensor of the parameter's
    shape, or of shape () where P is 1; ``None`` while the optimizer has no state for it.

    Raises:
        UnknownPreconditionerError: an optimizer of another kind; names the ones it knows.

    >>> weight = Parameter(torch.zeros(2))
    >>> optimizer = Adam([weight], eps=0.0)
    >>> weight.grad = torch.tensor([2.0, 0.5])
    >>> optimizer.step()
    >>> Preconditioner(optimizer)(weight)
    tensor([0.5000, 2.0000])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        check_optimizer(optimizer)
        self._optimizer = optimizer
        self._reader = next(
            reader for kind, reader in _READERS.items() if isinstance(optimizer, kind)
        )
        self._groups: dict[int, dict[str, Any]] = {}

    def __call__(self, parameter: Parameter) -> Tensor | None:
        if id(parameter) not in self._groups:  # one more group may have come since (unfreezing)
            self._groups = {
                id(p): group for group in self._optimizer.param_groups for p in group["params"]
            }
        return self._reader(self._optimizer.state.get(parameter, {}), self._groups[id(parameter)])


def _adam(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor | None:
    if "exp_avg_sq" not in state:
        return None
    second = state["max_exp_avg_sq"] if "max_exp_avg_sq" in state else state["exp_avg_sq"]
    beta = group["betas"][1]
    step = state[
        "step"
    ]  # on the host unless the optimizer is capturable or fused: then it is not read
    correction = 1 - beta ** (float(step) if step.device.type == "cpu" else step.double())
    return _inverse((second / correction).to(second.dtype), group["eps"])


def _rmsprop(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor | None:
    if "square_avg" not in state:
        return None
    square = state["square_avg"]
    return _inverse(
        square - state["grad_avg"].square() if "grad_avg" in state else square, group["eps"]
    )


def _adagrad(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor | None:
    if "sum" not in state or not float(state["step"]):
        return None
    return _inverse(state["sum"], group["eps"])


# one signature for all
def _sgd(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor | None:
    return torch.ones(())


def _inverse(square: Tensor, eps: float) -> Tensor:
    return square.clamp(min=0).sqrt().add_(eps).reciprocal_()


_READERS: dict[type[Optimizer], Callable[[dict[str, Tensor], dict[str, Any]], Tensor | None]] = {
    AdamW: _adam,
    Adam: _adam,
    NAdam: _adam,
    RAdam: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    SGD: _sgd,
}


def weighted_chunk_norms(gradient: Tensor, diagonal: Tensor) -> list[Tensor]:
    """Norms of chunks of P^(1/2)·gradient: their squares sum to gᵀPg. One temporary of the
    parameter's size.
    """
    if diagonal.ndim == 0:
        return [norms * diagonal.to(norms).sqrt() for norms in chunk_norms(gradient)]
    return chunk_norms(diagonal.sqrt().mul_(as_dense(gradient.detach())))
