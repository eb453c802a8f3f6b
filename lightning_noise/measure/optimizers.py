"""What is read from an optimizer."""

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def parameters_of(optimizer: Optimizer) -> list[Parameter]:
    """All parameters that the optimizer updates, in the order of its groups."""
    parameters: list[Parameter] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters


def kind_of(optimizer: Optimizer | None) -> str:
    """The optimizer as messages name it: by its class."""
    if optimizer is None:
        return "the optimizer"
    return type(optimizer).__name__


def learning_rate(optimizer: Optimizer | None) -> Tensor | float | None:
    """Learning rate of the first parameter group; a copy where it is a tensor, which is not read
    here.
    """
    if optimizer is None or not optimizer.param_groups:
        return None
    rate = optimizer.param_groups[0].get("lr")
    if isinstance(rate, Tensor):
        return rate.detach().clone()
    return rate
