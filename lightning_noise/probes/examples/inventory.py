"""Which layer owns which parameter, by which rule, and which parameters nobody sees."""

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.probes.examples.contribution import Form
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.modules import Reader
from lightning_noise.probes.examples.refusals import compiled_parts
from lightning_noise.probes.examples.registry import find_reader
from lightning_noise.probes.examples.rule import Rule

COMPILED = "it runs inside torch.compile, where hooks may not fire"


class Slot(NamedTuple):
    """A layer that owns watched parameters, and its rule.

    Args:
        layer: its name in the model.
        module: the layer.
        rule: as it was when the inventory was taken, for what does not change from call to call.
        read: the rule with the arguments that the layer has now.
        names: the model's name of each parameter by the layer's own.
        operands: each parameter by the layer's own name.
    """

    layer: str
    module: nn.Module
    rule: Rule
    read: Callable[[], Rule]
    names: dict[str, str]
    operands: dict[str, Tensor]

    def only(self, owned: Sequence[str]) -> "Slot":
        """With these parameters alone."""
        names = {own: self.names[own] for own in owned}
        return self._replace(names=names, operands={own: self.operands[own] for own in owned})


class Inventory(NamedTuple):
    """What is covered and what is not.

    Args:
        slots: the layers to hook.
        forms: how to sketch each covered parameter; ``None``: not at all.
        uncovered: why the others are not covered.
    """

    slots: list[Slot]
    forms: dict[str, Form | None]
    uncovered: dict[str, Cause]


def take_inventory(
    model: nn.Module,
    parameters: Mapping[str, Parameter],
    dropped: Mapping[str, Cause],
) -> Inventory:
    """Finds the layers of ``model`` that own ``parameters``.

    A parameter is covered if every one of its owners is.

    Args:
        model: whose layers are looked through.
        parameters: those to cover.
        dropped: parameters found out earlier, with the cause.
    """
    known = {id(parameter): name for name, parameter in parameters.items()}
    compiled = {id(part) for part in compiled_parts(model)}
    uncovered = {name: cause for name, cause in dropped.items() if name in parameters}
    owned_by_none = dict.fromkeys(parameters, Cause("no module of the model owns it"))
    slots: list[Slot] = []
    for layer, module in model.named_modules():
        operands = _operands(module, known)
        if not operands:
            continue
        names = {own: known[id(operand)] for own, operand in operands.items()}
        for name in names.values():
            owned_by_none.pop(name, None)
        reader = COMPILED if id(module) in compiled else find_reader(module)
        if isinstance(reader, str):
            uncovered |= dict.fromkeys(names.values(), Cause(reader, layer))
            continue
        slot = _slot(layer, module, reader, names, operands)
        uncovered |= _not_served(slot)
        slots.append(slot)
    uncovered |= owned_by_none
    return _covered(slots, uncovered)


def _operands(module: nn.Module, known: Mapping[int, str]) -> dict[str, Tensor]:
    own = module.named_parameters(recurse=False)
    return {name: parameter for name, parameter in own if id(parameter) in known}


def _slot(
    layer: str,
    module: nn.Module,
    reader: Reader,
    names: dict[str, str],
    operands: dict[str, Tensor],
) -> Slot:
    return Slot(layer, module, reader(module), partial(reader, module), names, operands)


def _not_served(slot: Slot) -> dict[str, Cause]:
    served = slot.rule.parameters
    if served is None:
        return {}
    cause = Cause(f"its layer's rule ({slot.rule.op}) does not serve it", slot.layer)
    return {name: cause for own, name in slot.names.items() if own not in served}


def _covered(slots: Sequence[Slot], uncovered: dict[str, Cause]) -> Inventory:
    offers = _offers(slots, uncovered)
    forms = {name: common_form(offered) for name, offered in offers.items()}
    hooked: list[Slot] = []
    for slot in slots:
        covered = [own for own, name in slot.names.items() if name in forms]
        if covered:
            hooked.append(slot.only(covered))
    return Inventory(hooked, forms, uncovered)


def _offers(
    slots: Sequence[Slot],
    uncovered: Container[str],
) -> dict[str, list[tuple[Form, ...]]]:
    """By covered parameter, what the rule of each of its owners offers."""
    offers: dict[str, list[tuple[Form, ...]]] = {}
    for slot in slots:
        for own, name in slot.names.items():
            if name not in uncovered:
                offered = slot.rule.forms(own, slot.operands[own])
                offers.setdefault(name, []).append(offered)
    return offers


def common_form(offers: Sequence[tuple[Form, ...]]) -> Form | None:
    """The first form that all owners of a parameter offer, so that their sketches can be added.

    Without one (``None``) the gradients are built.

    >>> linear, table = (Form("cols", 8), Form("rows", 100)), (Form("rows", 100),)
    >>> common_form([linear]), common_form([linear, table])
    (Form(side='cols', signs=8), Form(side='rows', signs=100))
    """
    shared = [form for form in offers[0] if all(form in offer for offer in offers[1:])]
    return shared[0] if shared else None
