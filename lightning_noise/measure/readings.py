"""What has been read so far: one average per key, steps skipped and why, sizes in use; plain
Python, no device.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_high
from typing import Any, NamedTuple, Protocol

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key, Moments
from lightning_noise.core.reasons import Reason
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import Windows
from lightning_noise.measure import skips
from lightning_noise.measure.pending_rows import ReadRow, Totals
from lightning_noise.measure.skips import NOT_FINITE, ONE_GROUP

LATEST = 15  # steps that the batch size in use is the median of


class Average(Protocol):
    """A running average of one key."""

    def estimate(self, confidence: float = 0.95, data_size: float | None = None) -> NoiseEstimate:
        """The estimate from all steps added so far."""

    def state_dict(self) -> Any:
        """Plain Python values, exact."""

    def load_state_dict(self, state: Any) -> None:
        """Restores :meth:`state_dict`."""


class Reading(NamedTuple):
    """One measured step of one key, as it was read.

    Args:
        key: which number it belongs to.
        moments: of the step, summed over the ranks.
        size: examples that the step used.
        learning_rate: of the step; ``None`` where it is not known.
        estimate: from all steps so far; ``None`` for single layers, where it is made on demand
            only.
    """

    key: Key
    moments: Moments
    size: float
    learning_rate: float | None
    estimate: NoiseEstimate | None


Sink = Callable[[Reading], None]


@dataclass
class Tally:
    """What is counted of one optimizer.

    Args:
        examples: used by all ranks.
        data_size: examples in a finite data set once it has been seen whole.
        epoch_began: ``examples`` when the epoch began; ``None`` where they cannot be compared,
            because it began on another number of ranks.
        sizes: examples of the latest steps.
        first_size: examples of the first step.
        skipped: steps that could not be used, by reason.
        twins: two ranks that were caught with the same examples.
    """

    examples: float = 0.0
    data_size: float | None = None
    epoch_began: float | None = 0.0
    sizes: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    first_size: float | None = None
    skipped: Counter[Reason] = field(default_factory=Counter)
    twins: tuple[int, int] | None = None

    def add(self, totals: Totals) -> None:
        """Adds what was counted since the last flush."""
        self.examples += totals.examples
        self.twins = self.twins or _twins(totals.by_rank)

    def next_epoch(self, *, whole: bool) -> None:
        """An epoch begins. ``whole``: the one before used every example of a finite data set once,
        so its size is known.
        """
        if whole and self.epoch_began is not None:
            self.data_size = self.examples - self.epoch_began
        self.epoch_began = self.examples

    def leave_ranks(self, *, inside_epoch: bool) -> None:
        """The steps that follow are those of another number of ranks."""
        self.sizes.clear()
        if inside_epoch:
            self.epoch_began = None

    @property
    def global_size(self) -> float | None:
        """Examples that one optimizer step uses: the median of the latest steps, so that a short
        last one does not show.
        """
        if not self.sizes:
            return None
        return median_high(self.sizes)

    def state_dict(self) -> dict[str, Any]:
        """Plain Python values, exact."""
        return {
            "examples": self.examples,
            "data_size": self.data_size,
            "epoch_began": self.epoch_began,
            "sizes": list(self.sizes),
            "first_size": self.first_size,
            "skipped": skips.saved(self.skipped),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.examples, self.data_size = state["examples"], state["data_size"]
        self.epoch_began, self.first_size = state["epoch_began"], state["first_size"]
        self.sizes = deque(state["sizes"], maxlen=LATEST)
        self.skipped = skips.loaded(state["skipped"])


class Readings:
    """Takes the rows that are read and keeps what follows from them.

    Args:
        decay_by_examples: a decay is that of a step of the first size, and larger steps decay by as
            much more.

    Attributes:
        averages: by key, curvatures included.
        trajectories: of every key of a whole model.
        tallies: by the name of the optimizer.
    """

    def __init__(self, *, decay_by_examples: bool = False) -> None:
        self.averages: dict[Key, Average] = {}
        self.trajectories: dict[Key, Trajectory] = {}
        self.tallies: dict[str, Tally] = {}
        self._decay_by_examples = decay_by_examples
        self._sinks: list[Sink] = []
        self._loaded: dict[Key, Mapping[str, Any]] = {}
        self._loaded_tallies: dict[str, Mapping[str, Any]] = {}

    def open(self, averages: Mapping[Key, Average], optimizers: Iterable[str]) -> None:
        """Begins the averages, each from a state that was loaded before if it holds its key."""
        self.averages = dict(averages)
        self.trajectories = {key: Trajectory() for key in averages if not key.layer}
        self.tallies = {name: Tally() for name in optimizers}
        self._take_up()

    def observe(self, sink: Sink) -> None:
        """Hands every reading to ``sink`` from here on."""
        self._sinks.append(sink)

    def take_step(self, name: str, keys: Sequence[Key], row: ReadRow) -> None:
        """Adds one optimizer step; ``row`` holds the moments of ``keys`` one after the other."""
        tally = self.tallies[name]
        if row.size > 0:  # a step without a backward pass used nothing
            tally.sizes.append(row.size)
            tally.first_size = tally.first_size or row.size
        age = 1.0
        if self._decay_by_examples and tally.first_size:
            age = row.size / tally.first_size
        for index, key in enumerate(keys):
            moments = Moments(*row.values[4 * index : 4 * index + 4])
            if moments.is_finite and moments.c_small == 0:
                continue  # the step was not this key's
            reason = _unusable(moments, row.fault)
            if reason is None:
                self.windows(key).update(moments, age)
                self.note(key, moments, row, tally.data_size)
            elif key == Key(optimizer=name):
                tally.skipped[reason] += 1

    def note(
        self, key: Key, moments: Moments, row: ReadRow, data_size: float | None = None
    ) -> None:
        """Tells trajectories and sinks what has just been added to an average."""
        estimate = None
        if key in self.trajectories:
            estimate = self.averages[key].estimate(data_size=data_size)
            size = None
            if key.optimizer in self.tallies:
                size = self.tallies[key.optimizer].global_size  # not that of a short last batch
            self.trajectories[key].add(estimate, rate=row.learning_rate, size=size)
        for sink in self._sinks:
            sink(Reading(key, moments, row.size, row.learning_rate, estimate))

    def estimate(self, key: Key, confidence: float = 0.95) -> NoiseEstimate:
        """The estimate of one key.

        Raises:
            KeyError: no such key is measured.
        """
        data_size = None
        if key.optimizer in self.tallies:
            data_size = self.tallies[key.optimizer].data_size
        return self.averages[key].estimate(confidence, data_size)

    def windows(self, key: Key) -> Windows:
        """The average of a key that is not a curvature.

        Raises:
            TypeError: it is one.
        """
        found = self.averages[key]
        if not isinstance(found, Windows):
            raise TypeError(f"{key} is a curvature, whose average is of another kind.")
        return found

    def steps(self, name: str) -> int:
        """Measured steps of an optimizer, those skipped included."""
        return self.estimate(Key(optimizer=name)).steps + sum(self.tallies[name].skipped.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything read, as plain Python values."""
        averages = []
        for key, average in self.averages.items():
            saved = {"key": list(key), "average": average.state_dict(), "trajectory": None}
            if key in self.trajectories:
                saved["trajectory"] = self.trajectories[key].state_dict()
            averages.append(saved)
        tallies = {name: tally.state_dict() for name, tally in self.tallies.items()}
        return {"averages": averages, "tallies": tallies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; before or after :meth:`open`. Keys that are not measured now
        are left out.
        """
        self._loaded = {Key(*saved["key"]): saved for saved in state["averages"]}
        self._loaded_tallies = dict(state["tallies"])
        if self.averages:
            self._take_up()

    def _take_up(self) -> None:
        for key, saved in self._loaded.items():
            if key in self.averages:
                self.averages[key].load_state_dict(saved["average"])
            if key in self.trajectories and saved["trajectory"] is not None:
                self.trajectories[key].load_state_dict(saved["trajectory"])
        for name, saved in self._loaded_tallies.items():
            if name in self.tallies:
                self.tallies[name].load_state_dict(saved)
        self._loaded, self._loaded_tallies = {}, {}


def _twins(by_rank: Sequence[float]) -> tuple[int, int] | None:
    """Two ranks whose squared gradient norms are equal to the last bit: only the same examples give
    that.

    >>> _twins([0.25, 0.5, 0.125, 0.5]), _twins([0.25, 0.5]), _twins([0.0, 0.0])
    ((1, 3), None, None)
    """
    first: dict[float, int] = {}
    for rank, value in enumerate(by_rank):
        if value in first and value > 0 and math.isfinite(value):
            return first[value], rank
        first.setdefault(value, rank)
    return None


def _unusable(moments: Moments, fault: Reason | None) -> Reason | None:
    """Why a key's record cannot be used; ``None`` if it can."""
    if not moments.is_finite:
        return fault or NOT_FINITE
    if not moments.has_groups:
        return ONE_GROUP
    return None
