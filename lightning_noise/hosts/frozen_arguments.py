"""The arguments of ``measure_noise_scale``: checked, and made ready for use."""

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from numbers import Real
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.measure.frozen_sample import Weighted
from lightning_noise.probes.preconditioner import (
    Preconditioner,
    check_optimizer,
    weighted_chunk_norms,
)
from lightning_noise.probes.sharding import is_sharded

GEOMETRIES = ("euclidean", "hessian", "gauss_newton", "optimizer")
LossFn = Callable[[nn.Module, Any], Any]


def geometry_names(geometry: str | Sequence[str], optimizer: Optimizer | None) -> tuple[str, ...]:
    """The geometries asked for.

    Raises:
        TypeError, ValueError: one is unknown or named twice, or ``optimizer`` is missing or of a
            kind whose preconditioner is not known.
    """
    names: tuple[str, ...] = ()  # anything else than strings is refused below
    if isinstance(geometry, str):
        names = (geometry,)
    elif isinstance(geometry, Iterable):
        names = tuple(geometry)
    repeated = len(set(names)) < len(names)
    if not names or repeated or not set(names) <= set(GEOMETRIES):
        raise ValueError(
            f"geometry must be one or several different ones of {list(GEOMETRIES)}, got "
            f"{geometry!r}."
        )
    if "optimizer" in names:
        if optimizer is None:
            raise TypeError(
                "geometry 'optimizer' needs optimizer=, the one in use, whose state holds the "
                "preconditioner."
            )
        check_optimizer(optimizer)
    return names


def check_limits(relative_error: float, max_examples: float) -> None:
    """Raises ValueError where one of them is not a number > 0 (``relative_error``: and finite)."""
    if not _is_positive(relative_error) or relative_error == math.inf:
        raise ValueError(
            f"relative_error must be a number > 0, got {relative_error!r}. 0.2 means 20 %."
        )
    if not _is_positive(max_examples):
        raise ValueError(f"max_examples must be a number > 0, got {max_examples!r}.")


def _is_positive(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return float(value) > 0


def check_data(module: nn.Module, loader: Iterable[Any]) -> None:
    """Raises TypeError where ``module`` is none, or ``loader`` cannot be iterated."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, whose parameters are differentiated, got "
            f"{module!r}."
        )
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise TypeError(
            f"loader must yield batches when it is iterated, such as a DataLoader or a list of "
            f"them, got {loader!r}."
        )


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient.

    Raises:
        ValueError: there is none.
    """
    found = [p for p in module.parameters() if p.requires_grad]
    if is_sharded(module, found):
        raise ValueError(
            "module is sharded by FSDP, and measure_noise_scale differentiates whole parameters. "
            "Load a consolidated checkpoint into a module that is not sharded."
        )
    if not found:
        raise ValueError(
            "module has no parameter that requires a gradient, so there is no noise scale. "
            "Unfreeze some of it."
        )
    return found


def choose_loss(module: nn.Module, loss_fn: LossFn | None) -> tuple[LossFn, nn.Module]:
    """(loss function, the module to call it with); a private copy where none is given."""
    if loss_fn is not None:
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function (module, batch) -> loss, got {loss_fn!r}.")
        return loss_fn, module
    if not isinstance(module, either(L.LightningModule)) or not module.automatic_optimization:
        raise TypeError(
            "loss_fn is needed for a module that is not a LightningModule with automatic "
            "optimization. Pass loss_fn=lambda module, batch: ..., which returns the mean loss "
            "over the batch."
        )
    copy = deepcopy(module)
    # There is no step to log at. The methods of this one copy are replaced, hence the ignore.
    copy.log = copy.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    return _training_step_loss, copy


def _training_step_loss(module: nn.Module, batch: Any) -> Tensor:
    # nn.Module does not declare training_step; choose_loss has checked that there is one
    returned: Any = module.training_step(batch, 0)  # type: ignore[operator]
    if isinstance(returned, dict):
        returned = returned["loss"]
    loss: Tensor = returned
    return loss


def weighted_norms(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Weighted:
    """Chunk norms in the optimizer's metric.

    Raises:
        ValueError: the optimizer has no state yet for one of ``parameters``.
    """
    diagonal = Preconditioner(optimizer)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for p in parameters:
        if id(p) not in owned or diagonal(p) is None:
            raise ValueError(
                "geometry 'optimizer' needs an optimizer over all trainable parameters of module "
                "that has made a step or was restored from a checkpoint: its preconditioner is in "
                "its state. Freeze the others, or restore the state."
            )

    def norms(index: int, gradient: Tensor) -> list[Tensor]:
        # not None: checked above, and the state only grows
        return weighted_chunk_norms(gradient, diagonal(parameters[index]))  # type: ignore[arg-type]

    return norms
