"""Which layer owns which parameter, by which rule, and which parameters nobody sees."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from torch.nn import Parameter

from lightning_noise.probes.examples.contribution import Form
from lightning_noise.probes.examples.refusals import compiled_parts
from lightning_noise.probes.examples.registry import Rule, find_rule, forms_of

POSITIONS_FIRST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)


class Slot(NamedTuple):
    """A layer that owns watched parameters, and its rule.

    Args:
        layer: its name in the model.
        names: the model's name of each parameter by the layer's own.
    """

    layer: str
    module: nn.Module
    rule: Rule
    names: dict[str, str]

    @property
    def positions_first(self) -> bool:
        """Whether dimension 1 of the layer's output holds positions, if there are any."""
        return isinstance(self.module, POSITIONS_FIRST)


class Inventory(NamedTuple):
    """The layers to hook, how to sketch each covered parameter (``None``: not at all), and the reasons for the others."""

    slots: list[Slot]
    forms: dict[str, Form | None]
    uncovered: dict[str, str]


def take_inventory(model: nn.Module, parameters: Mapping[str, Parameter], dropped: Mapping[str, str]) -> Inventory:
    """Finds the layers of ``model`` that own ``parameters``; a parameter is covered if every one of its owners is.

    Args:
        dropped: parameters found out earlier, with the reason.
    """
    known = {id(parameter): name for name, parameter in parameters.items()}
    compiled = {id(part) for part in compiled_parts(model)}
    uncovered = {name: reason for name, reason in dropped.items() if name in parameters}
    owned_by_none = dict.fromkeys(parameters, "no module of the model owns it")
    slots: list[Slot] = []
    for layer, module in model.named_modules():
        names = {own: known[id(p)] for own, p in module.named_parameters(recurse=False) if id(p) in known}
        for name in names.values():
            owned_by_none.pop(name, None)
        rule = find_rule(module) if id(module) not in compiled else "it runs inside torch.compile, where hooks may not fire"
        if isinstance(rule, str):
            uncovered |= dict.fromkeys(names.values(), f"{rule} ({layer})" if layer else rule)
            continue
        served = getattr(rule, "parameters", names)
        uncovered |= {name: f"no rule for {own} of {layer}" for own, name in names.items() if own not in served}
        slots.append(Slot(layer, module, rule, names))
    uncovered |= owned_by_none
    forms = {name: common_form(offers) for name, offers in _offers(slots).items() if name not in uncovered}
    covered = [slot._replace(names={own: name for own, name in slot.names.items() if name in forms}) for slot in slots]
    return Inventory([slot for slot in covered if slot.names], forms, uncovered)


def _offers(slots: list[Slot]) -> dict[str, list[tuple[Form, ...]]]:
    """By parameter, what the rule of each of its owners offers."""
    offers: dict[str, list[tuple[Form, ...]]] = {}
    for slot in slots:
        forms = forms_of(slot.module, slot.rule)
        for own, name in slot.names.items():
            offers.setdefault(name, []).append(forms.get(own, ()))
    return offers


def common_form(offers: list[tuple[Form, ...]]) -> Form | None:
    """The first form that all owners of a parameter offer, so that their sketches can be added; ``None``: build.

    >>> linear, table = (Form("cols", 8), Form("rows", 100)), (Form("rows", 100),)
    >>> common_form([linear]), common_form([linear, table])
    (Form(side='cols', signs=8), Form(side='rows', signs=100))
    """
    return next((form for form in offers[0] if all(form in offer for offer in offers[1:])), None)
