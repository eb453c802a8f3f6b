"""The search space at one batch size, and the points of the quasi-random search in it."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from lightning_noise.core.tradeoff import eps_opt
from lightning_noise.study.checks import all_are

PLAIN = (str, int, float, bool, type(None))
EDGE = 0.1  # the outer tenth of a range, in the scale that is searched, is its boundary

Parameters = dict[str, Any]
Distributions = dict[str, BaseDistribution]


@dataclass(frozen=True)
class LogUniform:
    """Values from ``low`` to ``high``, searched evenly in their logarithm.

    A pair (low, high) is short for it.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not _are_numbers(self.low, self.high) or not 0 < self.low < self.high < math.inf:
            given = f"({self.low!r}, {self.high!r})"
            fix = "A range that holds 0: Uniform(low, high)"
            raise ValueError(f"LogUniform needs 0 < low < high, got {given}. {fix}.")

    def at(self, global_size: int) -> BaseDistribution:  # the same at every size
        """The range as an Optuna distribution."""
        return FloatDistribution(self.low, self.high, log=True)


@dataclass(frozen=True)
class Uniform:
    """Values from ``low`` to ``high``, searched evenly."""

    low: float
    high: float

    def __post_init__(self) -> None:
        in_order = _are_numbers(self.low, self.high) and self.low < self.high
        if not in_order or math.isinf(self.low) or math.isinf(self.high):
            given = f"({self.low!r}, {self.high!r})"
            raise ValueError(f"Uniform needs finite low < high, got {given}.")

    def at(self, global_size: int) -> BaseDistribution:  # the same at every size
        """The range as an Optuna distribution."""
        return FloatDistribution(self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """One of some plain values (str, int, float, bool or None). A list is short for it."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or not all_are(self.values, PLAIN):
            rule = "one or more plain values (str, int, float, bool, None)"
            raise ValueError(f"Choice needs {rule}, got {self.values!r}.")

    def at(self, global_size: int) -> BaseDistribution:  # the same at every size
        """The values as an Optuna distribution."""
        return CategoricalDistribution(self.values)


@dataclass(frozen=True, kw_only=True)
class CentredLearningRate:
    """A range of learning rates that moves with the batch size as the large-batch model predicts.

    The centre at global size B is eps(B) = ``eps_max`` / (1 + ``b``/B)^``alpha`` (McCandlish et al.
    2018, eq. 2.6 with the exponent that other optimizers need: alpha is 1 for SGD and momentum,
    about 1/2 for Adam). The range goes from eps(B)/``spread`` to eps(B)·``spread`` and is searched
    evenly in its logarithm. ``b`` is a guess of the noise scale; the spread has to make up for a
    wrong one.

    >>> CentredLearningRate(eps_max=0.2, b=100, spread=10).at(100)
    FloatDistribution(high=1.0, log=True, low=0.01, step=None)
    """

    eps_max: float
    b: float
    alpha: float = 1.0
    spread: float = 10.0

    def __post_init__(self) -> None:
        self._check_positive("eps_max", self.eps_max)
        self._check_positive("b", self.b)
        self._check_positive("alpha", self.alpha)
        if not 1 < self.spread < math.inf:
            rule = "must be a factor > 1"
            raise ValueError(f"spread of CentredLearningRate {rule}, got {self.spread!r}.")

    def _check_positive(self, name: str, value: float) -> None:
        if not 0 < value < math.inf:
            rule = "must be a number > 0"
            raise ValueError(f"{name} of CentredLearningRate {rule}, got {value!r}.")

    def at(self, global_size: int) -> BaseDistribution:
        """The range at this size as an Optuna distribution."""
        centre = self.eps_max * eps_opt(global_size, self.b, 1.0) ** self.alpha
        return FloatDistribution(
            centre / self.spread,
            centre * self.spread,
            log=True,
        )


def _are_numbers(low: object, high: object) -> bool:
    are_bool = isinstance(low, bool) or isinstance(high, bool)
    return all_are((low, high), Real) and not are_bool


def distributions(space: Mapping[str, Any], global_size: int) -> Distributions:
    """Every parameter's range at ``global_size``, as Optuna distributions, sorted by name."""
    found = {}
    for name in sorted(space):
        found[name] = range_of(name, space[name]).at(global_size)
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


def range_of(name: str, given: Any) -> Any:
    """A range from what the user gave.

    Raises:
        TypeError: it is not a range.
    """
    if isinstance(given, tuple) and len(given) == 2:
        return LogUniform(*given)
    if isinstance(given, list):
        return Choice(tuple(given))
    if not isinstance(given, (LogUniform, Uniform, Choice, CentredLearningRate)):
        raise TypeError(
            f"search_space[{name!r}] must be LogUniform(low, high) or (low, high), "
            "Uniform(low, high), Choice(values) or a list, or CentredLearningRate(...), "
            f"got {given!r}."
        )
    return given


def points(space: Distributions, number: int, seed: int) -> list[Parameters]:
    """The first ``number`` points of a scrambled Sobol sequence in ``space``.

    They depend on nothing but the arguments.
    """
    # the sampler mistakes a parameter with a single value, as in the closer search, for one of a
    # conditional space, and warns at every point
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


def around(space: Distributions, centre: Parameters, searched: int) -> Distributions:
    """The neighbourhood of ``centre`` that ``searched`` points have left open.

    It reaches twice their distance to each side. Choices stay at what the centre has; a range that
    it would leave is cut at its end.
    """
    ranges = _ranges(space)
    dimensions = max(1, len(ranges))
    width = 2 / searched ** (1 / dimensions)
    near: Distributions = {}
    for name, value in centre.items():
        near[name] = CategoricalDistribution((value,))
    for name, dist in ranges.items():
        u = position(dist, centre[name])
        low = _value(dist, max(u - width, 0.0))
        high = _value(dist, min(u + width, 1.0))
        near[name] = FloatDistribution(low, high, log=dist.log)
    return near


def _ranges(space: Distributions) -> dict[str, FloatDistribution]:
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


def _value(dist: FloatDistribution, u: float) -> float:
    """The inverse of :func:`position`."""
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
    for name, dist in _ranges(space).items():
        u = position(dist, parameters[name])
        if not EDGE <= u <= 1 - EDGE:
            return True
    return False
