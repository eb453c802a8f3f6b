"""The ranges of a search space, each of which is an Optuna distribution at every batch size."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from lightning_noise.core.tradeoff import eps_opt
from lightning_noise.study.checks import all_are

PLAIN = (str, int, float, bool, type(None))


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


@dataclass(frozen=True)
class Momentum:
    """A momentum from ``low`` to ``high``, searched evenly in the logarithm of 1 − momentum.

    What a momentum does depends on the memory 1/(1 − momentum): from 0.9 to 0.99 it changes as much
    as from 0 to 0.9. In Optuna's dashboard it is shown as ``1 - <name>``.

    >>> Momentum(0.0, 0.99).at(32)
    FloatDistribution(high=1.0, log=True, low=0.01, step=None)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not _are_numbers(self.low, self.high) or not 0 <= self.low < self.high < 1:
            given = f"({self.low!r}, {self.high!r})"
            raise ValueError(f"Momentum needs 0 <= low < high < 1, got {given}.")

    def at(self, global_size: int) -> BaseDistribution:  # the same at every size
        """The range of 1 − momentum as an Optuna distribution."""
        # rounded, because 1 - 0.99 has an error in its last bits
        return FloatDistribution(round(1 - self.high, 12), round(1 - self.low, 12), log=True)


@dataclass(frozen=True, kw_only=True)
class DecaySteps:
    """Optimizer steps until a schedule has decayed, in a range that moves with the batch size.

    The centre at global size B is ``s_min`` (1 + ``b``/B), which is how the steps to a goal follow
    the batch size (McCandlish et al. 2018, eq. 2.7). The range reaches a factor ``spread`` to each
    side and is searched evenly in its logarithm. The module gets a float and makes its schedule of
    it.

    >>> DecaySteps(s_min=100, b=100, spread=4).at(100)
    FloatDistribution(high=800.0, log=True, low=50.0, step=None)
    """

    s_min: float
    b: float
    spread: float = 4.0

    def __post_init__(self) -> None:
        for name in ("s_min", "b"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} of DecaySteps must be a number > 0, got {value!r}.")
        if not 1 < self.spread < math.inf:
            raise ValueError(f"spread of DecaySteps must be a factor > 1, got {self.spread!r}.")

    def at(self, global_size: int) -> BaseDistribution:
        """The range at this size as an Optuna distribution."""
        centre = self.s_min * (1 + self.b / global_size)
        return FloatDistribution(centre / self.spread, centre * self.spread, log=True)


RANGES = (LogUniform, Uniform, Choice, CentredLearningRate, Momentum, DecaySteps)


def _are_numbers(low: object, high: object) -> bool:
    are_bool = isinstance(low, bool) or isinstance(high, bool)
    return all_are((low, high), Real) and not are_bool


def range_of(name: str, given: Any) -> Any:
    """A range from what the user gave.

    Raises:
        TypeError: it is not a range.
    """
    if isinstance(given, tuple) and len(given) == 2:
        return LogUniform(*given)
    if isinstance(given, list):
        return Choice(tuple(given))
    if not isinstance(given, RANGES):
        raise TypeError(
            f"search_space[{name!r}] must be LogUniform(low, high) or (low, high), "
            "Uniform(low, high), Choice(values) or a list, Momentum(low, high), "
            "DecaySteps(...), or CentredLearningRate(...), "
            f"got {given!r}."
        )
    return given
