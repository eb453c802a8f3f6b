"""What a run is trained for, how long it may take, and when its readings have reached it. Pure."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

from lightning_noise.report.terms import DIVERGED, INCOMPLETE, REACHED

# Times the distance from the first reading to the target, in the wrong direction.
FAR = 10.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A value that a metric has to reach.

    Args:
        metric: name under which the module logs it; ``"loss"`` with ``on="train"`` is what
            ``training_step`` returns.
        target: the value to reach.
        mode: "min" where less is better, "max" where more is.
        smoothing: the reading is averaged with exponential weights over about this many EXAMPLES,
            so that a small batch is smoothed as much as a large one; it delays the crossing by
            about as many examples. 0: no smoothing.
        on: "train" (read after every optimizer step) or "validation" (read after every validation).
        name: for tables and figures; made from metric and target where it is empty.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> Goal(metric="val_loss", target=0.1).name
    'val_loss <= 0.1'
    """

    metric: str
    target: float
    mode: str = "min"
    smoothing: float = 0.0
    on: str = "validation"
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise TypeError(f"metric must be the name of a logged metric, got {self.metric!r}.")
        if not _is_finite(self.target):
            raise ValueError(f"target must be a finite number, got {self.target!r}.")
        # NumPy's numbers cannot be stored
        object.__setattr__(self, "target", float(self.target))
        if self.mode not in ("min", "max"):
            words = "'min' (less is better) or 'max'"
            raise ValueError(f"mode must be {words}, got {self.mode!r}.")
        if self.on not in ("train", "validation"):
            raise ValueError(f"on must be 'train' or 'validation', got {self.on!r}.")
        if not isinstance(self.smoothing, (int, float)) or not 0 <= self.smoothing < math.inf:
            rule = "a number of examples >= 0"
            raise ValueError(f"smoothing must be {rule}, got {self.smoothing!r}. 0: no smoothing.")
        if not self.name:
            relation = ">="
            if self.mode == "min":
                relation = "<="
            name = f"{self.metric} {relation} {self.target:g}"
            object.__setattr__(self, "name", name)


def _is_finite(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]  # a Real


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run may take: optimizer steps, examples, or both (whichever ends first).

    Raises:
        ValueError: neither is given, or one is not above 0.

    >>> Budget(steps=1000, examples=64_000).steps_at(128)
    500
    """

    steps: int | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.examples is None:
            fix = "Give one, such as Budget(examples=100_000), or both"
            raise ValueError(f"Budget needs steps or examples, got neither. {fix}.")
        self._check("steps", self.steps)
        self._check("examples", self.examples)

    def _check(self, name: str, value: int | None) -> None:
        if value is None:
            return
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if not is_int or value < 1:
            rule = "None or an int >= 1"
            raise ValueError(f"{name} of a Budget must be {rule}, got {value!r}.")

    def steps_at(self, global_size: int) -> int:
        """Optimizer steps that a run at ``global_size`` may take.

        It is 0 where the examples are fewer than one batch.
        """
        allowed = []
        if self.steps is not None:
            allowed.append(self.steps)
        if self.examples is not None:
            allowed.append(self.examples // global_size)
        return min(allowed)


class GoalOutcome(NamedTuple):
    """The result of one goal in one run.

    ``status`` is "reached", "incomplete" (the run ended first) or "diverged": the training loss or
    a reading was not finite, or a reading was worse than the first one by ten times the distance
    from there to the target. So neither the unit nor the zero of a metric matters, nor whether it
    is minimised or its negative maximised. A metric with bounds, such as an accuracy, cannot get
    that much worse. How large the training loss is does not count unless it is the metric: it is
    not known how large a healthy one gets, and that of a policy may lie on both sides of 0.
    ``steps`` is the first crossing, interpolated between the readings around it; ``best_value`` is
    the best smoothed reading.
    """

    status: str
    steps: float | None
    best_value: float | None


class GoalWatch:
    """Follows the readings of one goal: smooths them and finds the first crossing.

    >>> watch = GoalWatch(Goal(metric="loss", target=0.5))
    >>> for step, value in [(0, 2.0), (10, 1.0), (20, 0.0)]:
    ...     watch.update(step, 32 * step, value)
    >>> watch.outcome()
    GoalOutcome(status='reached', steps=15.0, best_value=0.0)
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self._sign = 1.0
        if goal.mode == "max":
            self._sign = -1.0
        self._target = self._sign * goal.target
        self._start: float | None = None
        self._examples = 0.0
        self._last: tuple[float, float] | None = None  # step, smoothed value times sign
        self._best: float | None = None
        self._crossing: float | None = None
        self._diverged = False

    @property
    def decided(self) -> bool:
        """Whether no later reading can change the status."""
        return self._diverged or self._crossing is not None

    def update(self, step: float, examples: float, value: float) -> None:
        """Takes a reading of the weights after ``step`` optimizer steps and ``examples`` examples.

        Raises:
            ValueError: the goal already holds in the first reading.
        """
        if self._diverged:
            return
        if not math.isfinite(value):
            self._diverged = self._crossing is None
            return
        now = self._smooth(examples, self._sign * value)
        if self._last is None or self._start is None or self._best is None:
            self._check_first(step, now)
            self._start = now
            self._best = now
        elif self._crossing is None and now <= self._target:
            before, above = self._last
            passed = (step - before) * (above - self._target) / (above - now)
            self._crossing = before + passed
        self._best = min(self._best, now)
        far = self._start + FAR * (self._start - self._target)
        self._diverged = self._crossing is None and now > far
        self._last = (step, now)

    def _check_first(self, step: float, value: float) -> None:
        if value > self._target:
            return
        reading = f"{self._sign * value:.6g} at step {step:g}"
        raise ValueError(
            f"the goal {self.goal.name!r} already holds in the first reading ({reading}), so no "
            "steps can be counted. Choose a harder target, or validate more often."
        )

    def fail(self) -> None:
        """The training loss was not finite, which ends an open goal."""
        self._diverged = self._diverged or self._crossing is None

    def _smooth(self, examples: float, value: float) -> float:
        passed = examples - self._examples
        self._examples = examples
        if self._last is None or self.goal.smoothing == 0:
            return value
        _, before = self._last
        keep = math.exp(-passed / self.goal.smoothing)
        return keep * before + (1 - keep) * value

    def outcome(self) -> GoalOutcome:
        """What is known so far."""
        status = INCOMPLETE
        if self._crossing is not None:
            status = REACHED
        elif self._diverged:
            status = DIVERGED
        best = self._best
        if best is not None:
            best *= self._sign
        return GoalOutcome(status, self._crossing, best)
