"""What a run is trained for, how long it may take, and when its readings have reached it. Pure."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

from lightning_noise.report.terms import DIVERGED, INCOMPLETE, REACHED

# Times the distance from the first reading to the target, in the wrong direction. For a metric to
# be maximised it is that of the training loss, whose target is taken to be 0.
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

    ``status`` is "reached", "incomplete" (the run ended first) or "diverged": a reading was not
    finite, or worse than the first one by ten times the distance from there to the target. A metric
    to be maximised, such as an accuracy, cannot get that much worse. For such a metric it is the
    training loss that was not finite, or above its first reading by ten times its absolute value.
    ``steps`` is the first crossing, interpolated between the readings around it; ``best_value`` is
    the best smoothed reading.
    """

    status: str
    steps: float | None
    best_value: float | None


def _blend(before: float, value: float, passed: float, smoothing: float) -> float:
    """The exponential mean over about ``smoothing`` examples, ``passed`` of them new."""
    if smoothing == 0:
        return value
    keep = math.exp(-passed / smoothing)
    return keep * before + (1 - keep) * value


class LossWatch:
    """Follows the training loss: whether it was ever not finite, or far above the first one.

    Args:
        smoothing: as that of a goal, in examples.
    """

    def __init__(self, smoothing: float) -> None:
        self.failed = False
        self.far = False
        self._smoothing = smoothing
        self._first: float | None = None
        self._loss: float | None = None  # smoothed
        self._examples = 0.0

    def update(self, examples: float, loss: float) -> None:
        """Takes the loss of a step, before which the run had seen ``examples`` examples."""
        if not math.isfinite(loss):
            self.failed = True
        if self.failed:
            return
        passed = examples - self._examples
        self._examples = examples
        if self._loss is None or self._first is None:
            self._first = loss
            self._loss = loss
        else:
            self._loss = _blend(self._loss, loss, passed, self._smoothing)
        scale = abs(self._first)
        self.far = self.far or (scale > 0 and self._loss > self._first + FAR * scale)


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
        self._loss = LossWatch(goal.smoothing)

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
        if self.goal.mode == "min":
            far = self._start + FAR * abs(self._start - self._target)
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

    def update_loss(self, examples: float, loss: float) -> None:
        """Takes the training loss of a step.

        Before that step the run had seen ``examples`` examples.

        A loss that is not finite ends every open goal. A loss far above the first one ends the
        goals whose metric is to be maximised.
        """
        if self.decided:
            return
        self._loss.update(examples, loss)
        if self._loss.failed or (self.goal.mode == "max" and self._loss.far):
            self.fail()

    def fail(self) -> None:
        """The training loss shows that the run has diverged."""
        self._diverged = self._diverged or self._crossing is None

    def _smooth(self, examples: float, value: float) -> float:
        passed = examples - self._examples
        self._examples = examples
        if self._last is None:
            return value
        _, before = self._last
        return _blend(before, value, passed, self.goal.smoothing)

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
