"""What has been read so far: averages by key, steps passed over and why, sizes in use; plain Python, no device."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_high
from typing import Any

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key, Moments
from lightning_noise.core.trajectory import Trajectory
from lightning_noise.core.windows import Windows
from lightning_noise.measure.pending_rows import Flushed, StepRecord

HEADLINE = Key()
ONE_GROUP = "only one group of gradients in the step"
NOT_FINITE = "gradients were not finite (overflow)"


class Readings:
    """Takes the steps that a table hands out and keeps what follows from them.

    Args:
        decay: exponential decay a measured step.
        decay_by_examples: ``decay`` is that of a step of the first size, and larger steps decay by as much more.
    """

    def __init__(self, decay: float, *, decay_by_examples: bool = False) -> None:
        self.twins: tuple[int, int] | None = None  # two ranks that were caught with the same examples
        self.data_size: float | None = None  # examples in a finite data set once it has been seen whole
        self.examples = 0.0  # used by all ranks
        self.skipped: Counter[str] = Counter()
        self.windows: dict[Key, Windows] = {}
        self.trajectories: dict[Key, Trajectory] = {}
        self._decay, self._decay_by_examples = decay, decay_by_examples
        self._sizes: deque[float] = deque(maxlen=51)
        self._first_size: float | None = None
        self._epoch_began = 0.0
        self._loaded: dict[Key, dict[str, Any]] = {}

    def open(self, keys: Iterable[Key]) -> None:
        """Starts the averages of ``keys``, from a state that was loaded before if it holds them."""
        keys = list(keys)
        self.windows = {key: Windows(self._decay) for key in keys}
        self.trajectories = {key: Trajectory() for key in keys if not key.layer}
        for key, saved in self._loaded.items():
            if key in self.windows:
                self.windows[key].load_state_dict(saved["windows"])
            if key in self.trajectories and saved["trajectory"] is not None:
                self.trajectories[key].load_state_dict(saved["trajectory"])
        self._loaded = {}

    def take(self, flushed: Flushed) -> None:
        """Adds what a table held."""
        self.examples += flushed.examples
        for record in flushed.records:
            self._take(record)
        self.twins = self.twins or _twins(flushed.by_rank)

    def _take(self, record: StepRecord) -> None:
        if record.global_size > 0:  # a step without a backward pass used nothing
            self._sizes.append(record.global_size)
            self._first_size = self._first_size or record.global_size
        age = record.global_size / self._first_size if self._decay_by_examples and self._first_size else 1.0
        for (key, windows), moments in zip(self.windows.items(), record.moments, strict=True):
            reason = _unusable(moments, record.fault)
            if reason is None:
                windows.update(moments, age)
                if key in self.trajectories:
                    self.trajectories[key].add(
                        windows.estimate(data_size=self.data_size),
                        rate=record.learning_rate,
                        size=record.global_size,
                    )
            elif key == HEADLINE and reason:
                self.skipped[reason] += 1

    def next_epoch(self, *, whole: bool) -> None:
        """An epoch begins. ``whole``: the one before used every example of a finite data set once, so its size is known."""
        if whole:
            self.data_size = self.examples - self._epoch_began
        self._epoch_began = self.examples

    def resized(self) -> None:
        """The batch size changes from here on: :attr:`global_size` is the median of what follows."""
        self._sizes.clear()

    def estimate(self, key: Key, confidence: float) -> NoiseEstimate:
        """The estimate of one key.

        Raises:
            KeyError: no such key is measured.
        """
        return self.windows[key].estimate(confidence, self.data_size)

    @property
    def steps(self) -> int:
        """Measured steps of the headline, those passed over included."""
        return next((windows.averages[0].steps for windows in self.windows.values()), 0) + sum(self.skipped.values())

    @property
    def global_size(self) -> float | None:
        """Examples that one optimizer step uses: the median of the latest steps, so that a short last one does not show."""
        return median_high(self._sizes) if self._sizes else None

    def state_dict(self) -> dict[str, Any]:
        """Everything read, as plain Python values."""
        return {
            "examples": self.examples,
            "data_size": self.data_size,
            "epoch_began": self._epoch_began,
            "sizes": list(self._sizes),
            "first_size": self._first_size,
            "skipped": dict(self.skipped),
            "keys": [
                {
                    "key": list(key),
                    "windows": windows.state_dict(),
                    "trajectory": self.trajectories[key].state_dict() if key in self.trajectories else None,
                }
                for key, windows in self.windows.items()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; before or after :meth:`open`."""
        self.examples, self.data_size, self._epoch_began = state["examples"], state["data_size"], state["epoch_began"]
        self._sizes = deque(state["sizes"], maxlen=self._sizes.maxlen)
        self._first_size = state["first_size"]
        self.skipped = Counter(state["skipped"])
        self._loaded = {Key(*saved["key"]): saved for saved in state["keys"]}
        if self.windows:
            self.open(list(self.windows))


def _twins(by_rank: Sequence[float]) -> tuple[int, int] | None:
    """Two ranks whose squared gradient norms are equal to the last bit: only the same examples give that.

    >>> _twins([0.25, 0.5, 0.125, 0.5]), _twins([0.25, 0.5]), _twins([0.0, 0.0])
    ((1, 3), None, None)
    """
    first: dict[float, int] = {}
    for rank, value in enumerate(by_rank):
        if value in first and value > 0 and math.isfinite(value):
            return first[value], rank
        first.setdefault(value, rank)
    return None


def _unusable(moments: Moments, fault: str | None) -> str | None:
    """Why a key's record cannot be used; ``None`` if it can, "" if the step simply was not this key's."""
    if not moments.is_finite:
        return fault or NOT_FINITE
    if moments.c_small == 0:
        return ""
    return None if moments.has_groups else ONE_GROUP
