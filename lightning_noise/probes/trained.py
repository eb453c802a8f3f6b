"""Which parameters of a model are trained."""

from collections.abc import Mapping

from torch.nn import Parameter


def trained(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Those of ``parameters`` that require a gradient, by name."""
    return {name: p for name, p in parameters.items() if p.requires_grad}
