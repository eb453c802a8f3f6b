"""The search space at one batch size, and the points of the quasi-random search in it."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from lightning_noise.study.ranges import Momentum, range_of

COMPLEMENT = "1 - "  # before the name of a parameter of which 1 − value is searched
EDGE = 0.1  # the outer tenth of a range, in the scale that is searched, is its boundary

Parameters = dict[str, Any]
Distributions = dict[str, BaseDistribution]


def distributions(space: Mapping[str, Any], global_size: int) -> Distributions:
    """Every parameter's range at ``global_size``, as Optuna distributions, sorted by name."""
    found = {}
    for name in sorted(space):
        given = range_of(name, space[name])
        searched = name
        if isinstance(given, Momentum):
            searched = f"{COMPLEMENT}{name}"
        found[searched] = given.at(global_size)
    return found


def as_given(point: Parameters) -> Parameters:
    """A point of the search as parameters of the module: a momentum in place of 1 − momentum."""
    found = {}
    for name, value in point.items():
        if name.startswith(COMPLEMENT):
            found[name.removeprefix(COMPLEMENT)] = 1 - value
        else:
            found[name] = value
    return found


def as_ranges(search_space: Mapping[str, Any]) -> dict[str, Any]:
    """The ranges of a search space as the user gave it.

    Raises:
        TypeError: it is not a mapping, or one of its values is not a range.
        ValueError: it has no learning rate.
    """
    if not isinstance(search_space, Mapping):
        rule = "a dict of ranges, such as {'learning_rate': (1e-3, 1.0)}"
        raise TypeError(f"search_space must be {rule}, got {search_space!r}.")
    if "learning_rate" not in search_space:
        raise ValueError(
            f"search_space must hold 'learning_rate', got {sorted(search_space)}: "
            "steps at a learning rate that is not tuned determine no critical batch size."
        )
    ranges = {}
    for name, given in search_space.items():
        ranges[name] = range_of(name, given)
    return ranges


def for_optuna(
    parameters: Parameters,
    space: Distributions,
) -> tuple[Parameters, Distributions]:
    """The point of some parameters of the module, and ranges that hold it."""
    point = {}
    ranges = {}
    for name, dist in space.items():
        value: Any
        if name.startswith(COMPLEMENT):
            value = 1 - parameters[name.removeprefix(COMPLEMENT)]
        else:
            value = parameters[name]
        point[name] = value
        ranges[name] = dist
        if isinstance(dist, FloatDistribution):
            low = min(dist.low, value)
            high = max(dist.high, value)
            ranges[name] = FloatDistribution(low, high, log=dist.log)
    return point, ranges


def points(space: Distributions, number: int, seed: int) -> list[Parameters]:
    """The first ``number`` points of a scrambled Sobol sequence in ``space``.

    They depend on nothing but the arguments.
    """
    # the sampler mistakes a parameter with a single value for one of a conditional space, and warns
    # at every point
    with quiet(optuna.logging.ERROR), warnings.catch_warnings():
        # QMCSampler is marked as experimental since Optuna 3.0
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        balance = "The balance properties of Sobol"
        warnings.filterwarnings("ignore", message=balance, category=UserWarning)
        sampler = optuna.samplers.QMCSampler(
            scramble=True,
            seed=seed,
            warn_independent_sampling=False,
        )
        study = optuna.create_study(
            sampler=sampler,
            storage=optuna.storages.InMemoryStorage(),
            study_name="points",
        )
        study.ask(space)  # Optuna draws the first one without the sequence
        return [study.ask(space).params for _ in range(number)]


@contextmanager
def quiet(level: int = optuna.logging.WARNING) -> Iterator[None]:
    """Silences Optuna below ``level``: it reports every study that it creates."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, level))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def float_ranges(space: Distributions) -> dict[str, FloatDistribution]:
    """The ranges of numbers in a space."""
    ranges = {}
    for name, dist in space.items():
        if isinstance(dist, FloatDistribution):
            ranges[name] = dist
    return ranges


def position(dist: FloatDistribution, value: float) -> float:
    """Where ``value`` lies in the range, from 0 to 1 in the scale that is searched."""
    if dist.log:
        return math.log(value / dist.low) / math.log(dist.high / dist.low)
    return (value - dist.low) / (dist.high - dist.low)


def at_position(dist: FloatDistribution, u: float) -> float:
    """The inverse of :func:`position`, also outside of the range."""
    if u == 0.0:
        return dist.low
    if u == 1.0:
        return dist.high
    if dist.log:
        value: float = dist.low * (dist.high / dist.low) ** u
        return value
    return dist.low + u * (dist.high - dist.low)


def on_boundary(space: Distributions, parameters: Parameters) -> bool:
    """Whether any parameter lies in the outer tenth of its range: the best may lie outside."""
    for name, dist in float_ranges(space).items():
        u = position(dist, parameters[name])
        if not EDGE <= u <= 1 - EDGE:
            return True
    return False
