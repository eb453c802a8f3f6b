"""Which layer owns which parameter, which rule serves it, and which parameters are not seen."""

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
from lightning_noise.probes.examples.rules.embedding import BY_FREQUENCY
from lightning_noise.probes.examples.uncompiled import COMPILED

UNOWNED = "no module of the model owns it"
UNSEEN_BY_CALLS = frozenset({COMPILED, UNOWNED, BY_FREQUENCY})


class Slot(NamedTuple):
    """A layer that owns watched parameters, and its rule.

    Args:
        layer: its name in the model.
        module: the layer.
        rule: as it was when the inventory was taken, for what does not change from call to call.
        read: returns the rule with the arguments that the layer has at the time of a call.
        names: the name of each parameter in the model, by its name in the layer.
        operands: each parameter by its name in the layer.
    """

    layer: str
    module: nn.Module
    rule: Rule
    read: Callable[[], Rule]
    names: dict[str, str]
    operands: dict[str, Tensor]

    def only(self, owned: Sequence[str]) -> "Slot":
        """This slot with only these parameters."""
        names: dict[str, str] = {}
        operands: dict[str, Tensor] = {}
        for own in owned:
            names[own] = self.names[own]
            operands[own] = self.operands[own]
        return self._replace(names=names, operands=operands)

    def without(self, left_out: Container[str]) -> "Slot":
        """This slot without the parameters whose names in the model are in ``left_out``."""
        return self.only([own for own, name in self.names.items() if name not in left_out])


class Inventory(NamedTuple):
    """What is covered and what is not.

    Args:
        slots: the layers to hook.
        forms: how to sketch each covered parameter; ``None`` for one that is not sketched.
        uncovered: why the others are not covered.
        by_calls: those that no layer covers, and whose calls of functions are watched instead.
    """

    slots: list[Slot]
    forms: dict[str, Form | None]
    uncovered: dict[str, Cause]
    by_calls: frozenset[str] = frozenset()

    def with_calls(self, refused: Mapping[str, Cause]) -> "Inventory":
        """Leaves to the watch on calls what no layer covers, but for what it has refused."""
        found: set[str] = set()
        for name, cause in self.uncovered.items():
            if name not in refused and cause.kind not in UNSEEN_BY_CALLS:
                found.add(name)
        uncovered: dict[str, Cause] = {}
        for name, cause in self.uncovered.items():
            if name not in found:
                uncovered[name] = refused.get(name, cause)
        return self._replace(uncovered=uncovered, by_calls=frozenset(found))


def take_inventory(
    model: nn.Module,
    parameters: Mapping[str, Parameter],
    dropped: Mapping[str, Cause],
    *,
    eager: bool = False,
) -> Inventory:
    """Finds the layers of ``model`` that own ``parameters``.

    A parameter is covered if all layers that own it are covered.

    Args:
        model: whose layers to go through.
        parameters: those to cover.
        dropped: parameters that earlier steps have shown not to be covered, with the cause.
        eager: whether passes run without ``torch.compile``, so that hooks fire everywhere.
    """
    known = {id(parameter): name for name, parameter in parameters.items()}
    compiled: set[int] = set()
    if not eager:
        compiled |= set(map(id, compiled_parts(model)))
    uncovered = {name: cause for name, cause in dropped.items() if name in parameters}
    owned_by_none = dict.fromkeys(parameters, Cause(UNOWNED))
    slots: list[Slot] = []
    for layer, module in model.named_modules():
        names, operands = _owned(module, known)
        if not operands:
            continue
        for name in names.values():
            owned_by_none.pop(name, None)
        reader: Reader | str = COMPILED
        if id(module) not in compiled:
            reader = find_reader(module)
        if isinstance(reader, str):
            uncovered |= dict.fromkeys(names.values(), Cause(reader, layer))
            continue
        slot = _slot(layer, module, reader, names, operands)
        uncovered |= _not_served(slot)
        slots.append(slot)
    uncovered |= owned_by_none
    return _covered(slots, uncovered)


def _owned(
    module: nn.Module,
    known: Mapping[int, str],
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The names in the model of the parameters that a module owns itself, and the parameters.

    Both are keyed by the name in the module.
    """
    names: dict[str, str] = {}
    operands: dict[str, Tensor] = {}
    for own, parameter in module.named_parameters(recurse=False):
        if id(parameter) in known:
            names[own] = known[id(parameter)]
            operands[own] = parameter
    return names, operands


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
        covered = slot.without(uncovered)
        if covered.names:
            hooked.append(covered)
    return Inventory(hooked, forms, uncovered)


def _offers(
    slots: Sequence[Slot],
    uncovered: Container[str],
) -> dict[str, list[tuple[Form, ...]]]:
    """For each covered parameter, the forms that the rules of its owners offer."""
    offers: dict[str, list[tuple[Form, ...]]] = {}
    for slot in slots:
        for own, name in slot.names.items():
            if name not in uncovered:
                offered = slot.rule.forms(own, slot.operands[own])
                offers.setdefault(name, []).append(offered)
    return offers


def common_form(offers: Sequence[tuple[Form, ...]]) -> Form | None:
    """The first form that all owners of a parameter offer, so that their sketches can be added.

    ``None`` if there is none: then gradients are built.

    >>> linear, table = (Form("cols", 8), Form("rows", 100)), (Form("rows", 100),)
    >>> common_form([linear]), common_form([linear, table])
    (Form(side='cols', signs=8), Form(side='rows', signs=100))
    """
    for form in offers[0]:
        if all(form in offer for offer in offers):
            return form
    return None
