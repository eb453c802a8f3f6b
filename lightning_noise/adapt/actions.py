"""What adapting asks of a host: plain records that a host performs on its trainer."""

from fractions import Fraction
from typing import NamedTuple


class SetBatch(NamedTuple):
    """Training loaders get ``ratio`` times their original batch size when prepared again."""

    ratio: Fraction


class ChangeInside(NamedTuple):
    """In the middle of an epoch, training loaders change to ``ratio`` times their original batch
    size: at the first batch that no rank has drawn yet and with which a step of the present
    accumulation and one of ``accumulation`` micro-batches begin.
    """

    ratio: Fraction
    accumulation: int


class SetAccumulation(NamedTuple):
    """The optimizer steps after this many micro-batches from now on."""

    micro_batches: int


class SetRateFactor(NamedTuple):
    """The learning rate is multiplied by ``rate_factor`` in every optimizer step from now on."""

    rate_factor: float


class SetPace(NamedTuple):
    """Schedules that count steps advance by ``pace`` steps per optimizer step."""

    pace: float


class MeasureSizeAnew(NamedTuple):
    """Steps use another number of examples from here on; earlier ones do not count towards it."""


class MeasureEvery(NamedTuple):
    """One of every ``steps`` optimizer steps is measured from now on."""

    steps: int


class Say(NamedTuple):
    """A line for the user, printed by rank 0."""

    text: str


class Warn(NamedTuple):
    """A warning for the user, given by rank 0."""

    text: str


Action = (
    SetBatch
    | ChangeInside
    | SetAccumulation
    | SetRateFactor
    | SetPace
    | MeasureSizeAnew
    | MeasureEvery
    | Say
    | Warn
)
