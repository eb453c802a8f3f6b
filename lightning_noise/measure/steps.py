"""Which backward passes make up an optimizer's step: announced by the host, or inferred from the
gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.measure.track import Track
from lightning_noise.probes.rows import combined

TWO_PASSES = "two_passes"
SHARED = "shared_pass"
NOT_ZEROED = "not_zeroed"
IN_PART = "zeroed_in_part"
LAST_PASS_ONLY = "last_pass_only"
NO_PASS = "no_pass"
TEXTS = {  # code: what is the case, and the fix
    TWO_PASSES: (
        "two backward passes over one batch made the gradient of one step of {name}: they are "
        "terms of one loss and not "
        "groups of examples",
        "Add the losses up and make one backward pass.",
    ),
    SHARED: (
        "{name} steps on a backward pass that {other} has stepped on before, and they share "
        "parameters: its gradient belongs "
        "to weights that are gone",
        "Give each optimizer parameters of its own, or a backward pass of its own.",
    ),
    NOT_ZEROED: (
        "the gradient of {name} was not zeroed after its last step, so that it holds examples seen "
        "before",
        "Call its zero_grad() before the backward pass.",
    ),
    IN_PART: (
        "the gradient of {name} was zeroed in part between two backward passes of one step, so "
        "that its parts belong to "
        "different examples",
        "Call its zero_grad() for all of its parameters, or for none.",
    ),
    LAST_PASS_ONLY: (
        "the {probe} probe sees only the last of several backward passes for one step of {name}",
        "Use the micro_batches probe, or make one backward pass per step.",
    ),
    NO_PASS: (
        "no backward pass was seen before the step of {name}",
        "Announce the backward pass, before the step.",
    ),
}
SEVERAL_STEPS = (
    "{name} stepped several times within one batch: the number holds if each of these steps used "
    "as many examples as "
    "that batch has"
)
SEVERAL_PASSES = (
    "{name} evaluates the gradient several times per step: only the first evaluation, at the "
    "weights before the step, is "
    "measured and counted"
)


class Steps(ABC):
    """Turns the host's calls into calls of one or more tracks."""

    @abstractmethod
    def batch(self) -> None:
        """A batch begins; its forward pass is still to come."""

    @abstractmethod
    def begin(
        self, size: float | None, weight: float, examples: int | None, loss: Tensor | None
    ) -> None:
        """A backward pass over ``size`` examples begins, from ``loss``."""

    @abstractmethod
    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:
        """It is over; ``last``: the optimizer steps next. Raises ``CannotMeasureError``."""

    @abstractmethod
    def step(self, optimizer: Optimizer | None) -> None:
        """``optimizer`` is about to step. Raises ``CannotMeasureError``."""

    @abstractmethod
    def rest(self) -> None:
        """The batch is over: no hook stays on a layer until the next begins."""


class AnnouncedSteps(Steps):
    """Steps of one optimizer where the host knows which backward pass is the last before it steps.

    An optimizer that evaluates its closure several times per step (SAM) makes several backward
    passes over one batch. The first one, at the weights before the step, is measured and the others
    are ignored.
    """

    def __init__(self, track: Track) -> None:
        self._track = track
        self._first = True
        self._seen = False  # a backward pass over the present batch
        self._rate: Tensor | float | None = None

    def batch(self) -> None:
        """Tells a probe that watches forward passes that one begins."""
        self._seen = False
        self._rate = learning_rate(
            self._track.optimizer
        )  # inside the step an adaptive factor may be on it
        self._track.prepare()

    def begin(
        self, size: float | None, weight: float, examples: int | None, loss: Tensor | None
    ) -> None:
        """Opens the gate of the probe."""
        if self._seen:
            self._track.notes.add(SEVERAL_PASSES.format(name=_kind(self._track.optimizer)))
            return
        self._track.begin(size, weight, examples=examples)
        if loss is not None:
            self._track.watch_loss(loss)

    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:
        """Closes the gate; after the last pass reads the gradient, still scaled and not yet
        clipped.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """
        if self._seen:
            return
        self._seen = True
        self._track.end()
        self._track.rest()
        if not last:
            return
        self._track.step(loss_scale=loss_scale, learning_rate=self._rate)
        refusal = self._track.refusal if self._first else None
        self._first = False
        if refusal is not None:
            raise refusal

    def step(self, optimizer: Optimizer | None) -> None:  # there is one
        """A step whose last backward pass never came (``training_step`` returned ``None``) cannot
        be used.
        """
        self._track.discard()

    def rest(self) -> None:
        """The batch is over."""
        self._track.rest()


class FoundSteps(Steps):
    """Steps of any number of optimizers that a training loop makes by itself (manual optimization).

    A backward pass counts for an optimizer if it changed the gradient of one of its parameters,
    until the gradient is zeroed. Passes over several batches are micro-batches, whatever the loop
    divides their losses by: the optimizer's gradient is taken as their mean. What cannot be right
    is refused in an optimizer's first step, and skipped and counted later.

    Args:
        tracks: each with its optimizer.
    """

    def __init__(self, tracks: Iterable[Track]) -> None:
        self._followed = {id(track.optimizer): _Followed(track) for track in tracks}
        self._batch = self._pass = 0

    def batch(self) -> None:
        """Tells probes that watch forward passes that one begins."""
        self._batch += 1
        for one in self._followed.values():
            one.track.prepare()

    def begin(
        self,
        size: float | None,
        weight: float,  # not known here
        examples: int | None,
        loss: Tensor | None,
    ) -> None:
        """Opens the gates of all probes: whose pass it is, and with several optimizers whose loss,
        shows when it is over.
        """
        self._pass += 1
        known = loss if len(self._followed) == 1 else None
        for one in self._followed.values():
            one.begin(size, examples, known)

    # not known here
    def end(self, *, last: bool, loss_scale: Tensor | float | None) -> None:
        """Closes the gates and reads the gradients that this pass has changed, still scaled and not
        yet clipped.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """
        for one in self._followed.values():
            one.end(self._pass, self._batch, loss_scale)

    def step(self, optimizer: Optimizer | None) -> None:
        """Judges the passes that made the optimizer's gradient, and takes them as its step.

        Raises:
            CannotMeasureError: they cannot be right, and this is its first step.
        """
        one = self._followed.get(id(optimizer))
        if one is not None:
            one.step([other for other in self._followed.values() if other is not one])

    def rest(self) -> None:
        """The batch is over: until now the loop may have called the layers once more."""
        for one in self._followed.values():
            one.track.rest()


class _Pass(NamedTuple):
    """One backward pass that changed an optimizer's gradient."""

    row: Tensor | None
    fault: str | None
    size: float | None
    batch: int
    serial: int


Stamps = tuple[tuple[int, int] | None, ...]


class _Followed:
    """One optimizer and the passes that made its present gradient."""

    def __init__(self, track: Track) -> None:
        if track.optimizer is None:
            raise ValueError("FoundSteps needs the optimizer of every track.")
        self.track = track
        self._optimizer = track.optimizer
        self._passes: list[_Pass] = []
        self._used: set[int] = set()  # passes of the latest step
        self._before: Stamps = ()
        self._after: Stamps = ()
        self._stepped: Stamps = ()
        self._open = False
        self._size: float | None = None  # examples of the pass that is open
        self._fault: str | None = (
            None  # the code of what is wrong with the gradient as it was found
        )
        self._counted = 0  # the latest batch whose examples were counted
        self._first = True

    @property
    def parameters(self) -> list[Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _stamps(self) -> Stamps:
        """What changes when a gradient is made, added to, zeroed or removed; nothing is read from
        the device.
        """
        return tuple(
            None if p.grad is None else (id(p.grad), p.grad._version) for p in self.parameters
        )

    def begin(self, size: float | None, examples: int | None, loss: Tensor | None) -> None:
        if not any(p.requires_grad for p in self.parameters):
            return  # toggled off
        self._before = self._stamps()
        if self._passes and self._before != self._after:
            self._passes = []
            self._fault = IN_PART if self._zeroed_in_part() else None
        elif not self._passes:
            left = self._before == self._stepped and any(
                stamp is not None for stamp in self._before
            )
            self._fault = NOT_ZEROED if left else None
        self._open, self._size = True, size
        self.track.begin(size, 1.0, examples=examples)
        if loss is not None:
            self.track.watch_loss(loss)

    def _zeroed_in_part(self) -> bool:
        pairs = zip(self._after, self._before, strict=False)  # parameters may have been added
        return any(a == b for a, b in pairs if a is not None)

    def end(self, serial: int, batch: int, loss_scale: Tensor | float | None) -> None:
        if not self._open:
            return
        self._open = False
        self._after = self._stamps()
        if self._after == self._before:
            self.track.cancel()
            return
        row, fault = self.track.take(loss_scale=loss_scale)
        self._passes.append(_Pass(row, fault, self._size, batch, serial))
        refusal = self.track.refusal if self._first else None
        if refusal is not None:
            raise refusal
        self.track.prepare()

    def step(self, others: Sequence["_Followed"]) -> None:
        passes, self._passes = self._passes, []
        reason = self._judge(passes, others)
        self._stepped, self._fault = self._stamps(), None
        self._used = {one.serial for one in passes}
        if reason is not None and self._first:
            raise CannotMeasureError([reason])
        self._first = False
        if any(one.batch <= self._counted for one in passes):
            self.track.notes.add(SEVERAL_STEPS.format(name=self._said))
        used = sum(one.size or 0.0 for one in passes)
        new = sum(one.size or 0.0 for one in passes if one.batch > self._counted)
        self._counted = max([self._counted, *(one.batch for one in passes)])
        fault = next((one.fault for one in passes if one.fault is not None), None)
        if reason is not None:
            fault = reason.text
        row = combined([one.row for one in passes])
        rate = learning_rate(self._optimizer)
        self.track.commit(row, fault=fault, used=used, new=new, learning_rate=rate)
        self.track.prepare()

    def _judge(self, passes: Sequence[_Pass], others: Iterable["_Followed"]) -> Reason | None:
        """Why these passes cannot be groups of one step."""
        if not passes:
            return self._reason(NO_PASS)
        if len({one.batch for one in passes}) < len(passes):
            return self._reason(TWO_PASSES)
        if len(passes) > 1 and not self.track.probe.sees_every_pass:
            return self._reason(LAST_PASS_ONLY)
        for other in others:
            if self._shares_a_pass_with(other, passes):
                return self._reason(SHARED, other=other._said)
        return None if self._fault is None else self._reason(self._fault)

    def _shares_a_pass_with(self, other: "_Followed", passes: Sequence[_Pass]) -> bool:
        if other._used.isdisjoint(one.serial for one in passes):
            return False
        return not {id(p) for p in self.parameters}.isdisjoint(map(id, other.parameters))

    def _reason(self, code: str, other: str = "") -> Reason:
        text, fix = TEXTS[code]
        names = {"name": self._said, "other": other, "probe": self.track.probe.name}
        return Reason(code, Severity.REFUSE, text.format(**names), fix)

    @property
    def _said(self) -> str:
        return self.track.name or _kind(self._optimizer)


def _kind(optimizer: Optimizer | None) -> str:
    return "the optimizer" if optimizer is None else type(optimizer).__name__


def learning_rate(optimizer: Optimizer | None) -> Tensor | float | None:
    """Learning rate of the first parameter group; a copy where it is a tensor, which is not read
    here.
    """
    if optimizer is None or not optimizer.param_groups:
        return None
    rate = optimizer.param_groups[0].get("lr")
    return rate.detach().clone() if isinstance(rate, Tensor) else rate
