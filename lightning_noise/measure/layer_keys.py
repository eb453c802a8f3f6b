"""Which noise scales are measured: that of the whole model, and one per layer if asked for."""

from collections.abc import Iterable

from lightning_noise.core.moments import Key


def list_keys(
    names: Iterable[str], per_layer: bool | int, geometry: str = "euclidean"
) -> dict[Key, list[str]]:
    """Each key with the names of the parameters that it is summed over, the whole model first.

    Args:
        names: dotted parameter names, as from ``named_parameters()``.
        per_layer: ``True`` for every module that owns parameters, a number n for the first n parts
            of the dotted name.

    >>> list_keys(["net.0.weight", "net.0.bias", "net.2.weight"], per_layer=1)[Key(layer="net")]
    ['net.0.weight', 'net.0.bias', 'net.2.weight']
    >>> names = ["net.0.weight", "net.0.bias", "net.2.weight"]
    >>> [key.layer for key in list_keys(names, per_layer=True)]
    ['', 'net.0', 'net.2']
    """
    names = list(names)
    keys = {Key(geometry): names}
    if per_layer is False:
        return keys
    for name in names:
        *owners, _ = name.split(".")
        depth = per_layer
        if per_layer is True:
            depth = len(owners)
        layer = ".".join(owners[:depth]) or name
        key = Key(geometry, layer=layer)
        keys.setdefault(key, []).append(name)
    return keys
