"""How a model is sharded by FSDP2 (``fully_shard``) or FSDP: in which units, and into how many
pieces each parameter is.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity

FSDP_PREFIXES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class Place(NamedTuple):
    """The attribute of a module that holds a parameter, gathered or as a shard."""

    module: nn.Module
    attribute: str


@dataclass
class Unit:
    """Parameters that are gathered together for a forward pass.

    Args:
        module: has them gathered when its forward pre-hooks run.
        wrapper: what shards them.
        name: of the module, for messages.
        places: by name of the parameter.
    """

    module: nn.Module
    wrapper: nn.Module
    name: str
    places: dict[str, Place] = field(default_factory=dict)


class Sharding(NamedTuple):
    """The units of a model, and what they hold of the parameters that were asked for.

    Args:
        units: those that hold any of them.
        pieces: by name, how many ranks share one copy of the parameter; each holds a piece.
    """

    units: list[Unit]
    pieces: dict[str, int]


def is_sharded(model: nn.Module | None, parameters: Iterable[Parameter]) -> bool:
    """Whether FSDP2 or FSDP holds any of the parameters, or any module of ``model``.

    >>> is_sharded(nn.Linear(2, 2), nn.Linear(2, 2).parameters())
    False
    """
    if "torch.distributed.fsdp" not in sys.modules:
        return False  # who shards has imported it, and to import it here costs a second
    from torch.distributed.tensor import DTensor

    if any(isinstance(p, DTensor) or _is_flattened(p) for p in parameters):
        return True
    if model is None:
        return False
    return any(_is_unit(module) for module in model.modules())


def sharding_of(model: nn.Module, parameters: Mapping[str, Parameter], ranks: int) -> Sharding:
    """The units that hold ``parameters``.

    Args:
        model: outermost module; with FSDP the outermost wrapper.
        parameters: to look for, by name.
        ranks: that train on different examples.

    Raises:
        CannotMeasureError: a gradient would not be the mean over all ranks, or is not a shard of
            one whole; names the parameter.
    """
    units, pieces = [], {}
    for unit in _units(model, {id(p): name for name, p in parameters.items()}):
        _refuse_divided(unit)
        for name in unit.places:
            pieces[name] = _pieces(unit, name, parameters[name], ranks)
        if unit.places:
            units.append(unit)
    outside = [name for name in parameters if name not in pieces]
    if outside:
        raise CannotMeasureError([_outside(outside[0])])
    return Sharding(units, pieces)


def own_piece(gradient: Any) -> Tensor:
    """What this rank holds of a gradient; a gradient that is no DTensor is returned as it is.

    >>> import torch
    >>> own_piece(torch.ones(2))
    tensor([1., 1.])
    """
    if "torch.distributed.tensor" not in sys.modules:
        return gradient  # type: ignore[no-any-return]  # a plain tensor
    from torch.distributed.tensor import DTensor

    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def plain_name(name: str) -> str:
    """The name of a parameter without what FSDP and Lightning's activation checkpointing put in.

    >>> plain_name("net._fsdp_wrapped_module.0._checkpoint_wrapped_module.weight")
    'net.0.weight'
    """
    for prefix in FSDP_PREFIXES:
        name = name.replace(prefix, "")
    return name


def plainly_named(module: nn.Module) -> Iterator[tuple[str, Parameter]]:
    """Named parameters as an optimizer has them, by the names that they have without FSDP."""
    for name, parameter in as_shards(module, module.named_parameters()):
        yield plain_name(name), parameter


def as_shards(
    model: nn.Module | None, named: Iterable[tuple[str, Parameter]]
) -> Iterator[tuple[str, Parameter]]:
    """Named parameters, with the shard in place of each parameter that FSDP2 holds gathered.

    FSDP2 keeps its root gathered after a forward pass until a backward pass ends, and so between a
    validation and the next step. What ``named_parameters`` returns then is in no optimizer.
    """
    shards: dict[int, Parameter] = {}
    if model is not None and "torch.distributed.fsdp" in sys.modules:
        shards = _shards_by_gathered(model)
    for name, parameter in named:
        yield name, shards.get(id(parameter), parameter)


def _shards_by_gathered(model: nn.Module) -> dict[int, Parameter]:
    """The shard of each parameter of FSDP2, by the id of the parameter that it is gathered into."""
    from torch.distributed.fsdp import FSDPModule

    found: dict[int, Parameter] = {}
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        for group in _groups(module):
            for parameter in group.fsdp_params:
                # there is none before the first forward pass
                gathered = getattr(parameter, "_unsharded_param", None)
                found[id(gathered)] = parameter.sharded_param
    return found


def _groups(module: Any) -> Any:
    """The groups of parameters of a module of FSDP2."""
    # no public way to see what is gathered, or what set_gradient_divide_factor has set
    return module._get_fsdp_state()._fsdp_param_groups


def _is_unit(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(module, (FSDPModule, FullyShardedDataParallel))


def _is_flattened(parameter: Parameter) -> bool:
    # FSDP's own mark on its parameters; there is no public one, and outside of the wrapper nothing
    # else tells them from others
    return bool(getattr(parameter, "_fsdp_flattened", False))


def _units(model: nn.Module, names: Mapping[int, str]) -> list[Unit]:
    """Every unit, with the parameters of ``names`` (by id) that no unit inside it holds."""
    wrappers = _wrappers(model)
    shards = _shards_by_gathered(model)
    units: list[Unit] = []
    visited: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module, Unit | None]] = [("", model, None)]
    while waiting:
        path, module, unit = waiting.pop()
        if module in visited:
            continue
        visited.add(module)
        # a module can be reached by a second path, without its wrapper: it belongs to that still
        if module in wrappers:
            unit = Unit(module, wrappers[module], plain_name(f"{path}.").strip("."))
            units.append(unit)
        if unit is not None:
            unit.places.update(_own_places(module, names, shards))
        waiting += [(f"{path}.{name}", child, unit) for name, child in module.named_children()]
    return units


def _wrappers(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """What shards each unit, by the module that has its parameters gathered in forward pre-hooks:
    FSDP2 makes a unit of the module itself, and FSDP wraps it.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[nn.Module, nn.Module] = {}
    for module in filter(_is_unit, model.modules()):
        held = module.module if isinstance(module, FullyShardedDataParallel) else module
        found[held] = module
    return found


def _own_places(
    module: nn.Module, names: Mapping[int, str], shards: Mapping[int, Parameter]
) -> Iterator[tuple[str, Place]]:
    """Sharded parameters that ``module`` itself owns; those that a unit ignores are whole."""
    from torch.distributed.tensor import DTensor

    for attribute, found in module.named_parameters(recurse=False):
        parameter = shards.get(id(found), found)
        name = names.get(id(parameter))
        if name is not None and (isinstance(parameter, DTensor) or _is_flattened(parameter)):
            yield name, Place(module, attribute)


def _pieces(unit: Unit, name: str, parameter: Parameter, ranks: int) -> int:
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(unit.wrapper, FullyShardedDataParallel):
        pieces, replicas = _pieces_of_fsdp(unit.wrapper, ranks)
    else:
        pieces, replicas = _pieces_of_fsdp2(name, parameter)
    if pieces * replicas != ranks:
        raise CannotMeasureError([_other_ranks(name, pieces * replicas, ranks)])
    return pieces


def _pieces_of_fsdp(wrapper: Any, ranks: int) -> tuple[int, int]:
    """Pieces and replicas of the parameters of an FSDP unit."""
    from torch.distributed.fsdp import ShardingStrategy

    group: int = wrapper.process_group.size()
    if wrapper.sharding_strategy == ShardingStrategy.NO_SHARD:
        return 1, group
    if wrapper.sharding_strategy in (
        ShardingStrategy.HYBRID_SHARD,
        ShardingStrategy._HYBRID_SHARD_ZERO2,
    ):
        return group, ranks // group
    return group, 1


def _pieces_of_fsdp2(name: str, parameter: Any) -> tuple[int, int]:
    """Pieces and replicas of a DTensor; FSDP2 puts the replicas first and shards once."""
    sizes = parameter.device_mesh.shape
    sharded = [placement.is_shard() for placement in parameter.placements]
    if sharded != sorted(sharded) or sum(sharded) > 1:
        raise CannotMeasureError([_tensor_parallel(name)])
    pieces = math.prod(size for size, shard in zip(sizes, sharded, strict=True) if shard)
    return pieces, math.prod(sizes) // pieces


def _refuse_divided(unit: Unit) -> None:
    """FSDP2 can divide the sum over the ranks by another number than that of the ranks."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(unit.wrapper, FSDPModule):
        return
    for group in _groups(unit.wrapper):
        if group.gradient_divide_factor is not None:
            raise CannotMeasureError([_divided(unit.name, group.gradient_divide_factor)])


# Reasons


def _outside(name: str) -> Reason:
    return Reason(
        "outside_of_shards",
        Severity.REFUSE,
        f"parameter {name!r} is trained outside of every sharded module, so that its gradient is "
        "not averaged over the ranks",
        "Shard the module that owns it (fully_shard), or freeze it.",
    )


def _tensor_parallel(name: str) -> Reason:
    return Reason(
        "tensor_parallel",
        Severity.REFUSE,
        f"parameter {name!r} is split by tensor parallelism: ranks that hold parts of one gradient "
        "over the same examples are no independent groups, and their parts would have to be "
        "summed before they are squared",
        "Use data parallelism only (tensor_parallel_size=1).",
    )


def _other_ranks(name: str, found: int, ranks: int) -> Reason:
    return Reason(
        "other_ranks",
        Severity.REFUSE,
        f"the gradient of parameter {name!r} is averaged over {found} ranks, but {ranks} ranks "
        "train on different examples",
        "Shard every module over a mesh of all ranks.",
    )


def _divided(name: str, factor: float) -> Reason:
    return Reason(
        "gradient_divide_factor",
        Severity.REFUSE,
        f"module {name!r} divides the sum of the ranks' gradients by {factor}, so that the "
        "gradient is not their mean",
        "Leave out set_gradient_divide_factor, and divide the loss instead.",
    )
