"""From estimates to log keys: what is logged under ``noise_scale/…``.

A value that cannot be determined has no key.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from lightning_noise.core.curvature_average import Bounded, CurvatureAverage
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.core.tradeoff import examples_factor, steps_factor

PREFIX = "noise_scale/"
INTERVAL = ("b_simple", "b_simple_low", "b_simple_high")
# A logger with a prefix joins it to every key with a hyphen.
PREFIXED = re.compile(rf"(?P<prefix>.*?)-(?P<key>{PREFIX}.*)", re.DOTALL)
Values = dict[str, float | None]


class InUse(NamedTuple):
    """What an optimizer steps with: its learning rate, and the examples that one step uses."""

    learning_rate: float
    global_size: float | None


def prefix(optimizer: str) -> str:
    """Where the keys of an optimizer begin.

    >>> prefix(""), prefix("Adam-1")
    ('noise_scale/', 'noise_scale/Adam-1/')
    """
    if not optimizer:
        return PREFIX
    return f"{PREFIX}{optimizer}/"


def without_prefix(name: str) -> tuple[str, str] | None:
    """The prefix of the logger and the key, in a name of its log; ``None`` for other names.

    >>> without_prefix("noise_scale/trace"), without_prefix("fit-noise_scale/trace")
    (('', 'noise_scale/trace'), ('fit', 'noise_scale/trace'))
    >>> without_prefix("train_loss")
    """
    if name.startswith(PREFIX):
        return "", name
    match = PREFIXED.fullmatch(name)
    if match is None:
        return None
    return match["prefix"], match["key"]


def name_of(geometry: str) -> str:
    """What the noise scale in a metric is called in log keys and tables.

    >>> name_of("euclidean"), name_of("hessian"), name_of("optimizer")
    ('b_simple', 'b_noise', 'b_optimizer')
    """
    if geometry == "euclidean":
        return "b_simple"
    if geometry == "hessian":
        return "b_noise"
    return f"b_{geometry}"


def optimizer_values(
    estimates: Mapping[Key, NoiseEstimate],
    optimizer: str,
    in_use: InUse,
) -> dict[str, float]:
    """What is logged of one optimizer, by key; empty until a step has been measured."""
    main = estimates[Key(optimizer=optimizer)]
    if not main.steps:
        return {}
    values: Values = {}
    for key, estimate in estimates.items():
        if key.optimizer != optimizer:
            continue
        if key.layer:
            values[f"layer/{key.layer}"] = estimate.noise_scale
        elif key.geometry == "optimizer":
            values |= interval(name_of(key.geometry), estimate)
    values |= interval("b_simple", main)
    values["grad_sq"] = main.signal
    values["trace"] = main.noise
    values |= _costs(main, in_use)
    return _known(prefix(optimizer), values)


def _costs(estimate: NoiseEstimate, in_use: InUse) -> Values:
    rate, size = in_use
    values: Values = {"learning_rate": rate, "global_size": size}
    if not size:
        return values
    values["temperature"] = rate / size
    if estimate.noise_scale is not None and estimate.noise_scale > 0:
        values["steps_factor"] = steps_factor(size, estimate.noise_scale)
        values["examples_factor"] = examples_factor(size, estimate.noise_scale)
    return values


def curvature_values(averages: Mapping[str, CurvatureAverage]) -> dict[str, float]:
    """What is logged of curvatures, by key; eps_max and dl_max are those of the first one."""
    values: Values = {}
    for place, (geometry, average) in enumerate(averages.items()):
        if not average.probes:
            continue
        estimate = average.estimate()
        values |= interval(name_of(geometry), estimate)
        values[f"{geometry}_grad_sq"] = estimate.signal
        values[f"{geometry}_trace"] = estimate.noise
        values[f"{geometry}_indefinite"] = average.indefinite
        if place == 0:
            values |= _bounded("eps_max", average.eps_max())
            values |= _bounded("dl_max", average.dl_max())
    return _known(PREFIX, values)


def _bounded(name: str, found: Bounded | None) -> Values:
    if found is None:
        return {}
    return _ends(
        name,
        found.value,
        found.low,
        found.high,
    )


def interval(name: str, estimate: NoiseEstimate) -> Values:
    """A noise scale and both ends of its interval."""
    return _ends(
        name,
        estimate.noise_scale,
        estimate.low,
        estimate.high,
    )


def _ends(
    name: str,
    value: float | None,
    low: float | None,
    high: float | None,
) -> Values:
    return {
        name: value,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _known(head: str, values: Values) -> dict[str, float]:
    known = {}
    for name, value in values.items():
        if value is not None:
            known[head + name] = value
    return known
