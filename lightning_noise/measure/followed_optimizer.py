"""One optimizer of a loop that steps by itself, and the backward passes that made its gradient."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.measure.optimizers import kind_of, learning_rate, parameters_of
from lightning_noise.measure.pending_rows import Scalar
from lightning_noise.measure.track import Track
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.rows import combined
from lightning_noise.probes.sharding import own_piece

# refused in the first step of an optimizer, skipped in later ones
TWO_PASSES = Reason(
    "two_passes",
    Severity.REFUSE,
    "two backward passes over one batch made the gradient of one step of {name}: they are "
    "terms of one loss and not groups of examples",
    "Add the losses up and make one backward pass.",
)
SHARED = Reason(
    "shared_pass",
    Severity.REFUSE,
    "{name} steps on a backward pass that {other} has stepped on before, and they share "
    "parameters: its gradient belongs to weights that are gone",
    "Give each optimizer parameters of its own, or a backward pass of its own.",
)
NOT_ZEROED = Reason(
    "not_zeroed",
    Severity.REFUSE,
    "the gradient of {name} was not zeroed after its last step, so that it holds examples "
    "seen before",
    "Call its zero_grad() before the backward pass.",
)
IN_PART = Reason(
    "zeroed_in_part",
    Severity.REFUSE,
    "the gradient of {name} was zeroed in part between two backward passes of one step, so "
    "that its parts belong to different examples",
    "Call its zero_grad() for all of its parameters, or for none.",
)
LAST_PASS_ONLY = Reason(
    "last_pass_only",
    Severity.REFUSE,
    "the {probe} probe sees only the last of several backward passes for one step of {name}",
    "Use the micro_batches probe, or make one backward pass per step.",
)
NO_PASS = Reason(
    "no_pass",
    Severity.REFUSE,
    "no backward pass was seen before the step of {name}",
    "Announce the backward pass, before the step.",
)
SEVERAL_STEPS = (
    "{name} stepped several times within one batch: the number holds if each of these steps used "
    "as many examples as that batch has"
)


class _Pass(NamedTuple):
    """One backward pass that changed an optimizer's gradient."""

    row: Wide | None
    fault: Reason | None
    examples: float
    batch: int
    serial: int


Stamp = tuple[int, int] | None  # identity and version of a gradient, None where there is none
Stamps = tuple[Stamp, ...]


class FollowedOptimizer:
    """One optimizer and the passes that made its present gradient.

    Args:
        track: with its optimizer.
    """

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
        self._fault: Reason | None = None  # what was wrong with the gradient before the pass
        self._counted = 0  # the latest batch whose examples were counted
        self._first = True

    def _stamps(self) -> Stamps:
        """What changes when a gradient is made, added to, zeroed or removed; nothing is read from
        the device. FSDP2 adds to the local piece of a DTensor, whose version alone shows it.
        """
        stamps: list[Stamp] = []
        for parameter in parameters_of(self._optimizer):
            gradient = parameter.grad
            if gradient is None:
                stamps.append(None)
            else:
                stamps.append((id(gradient), own_piece(gradient)._version))
        return tuple(stamps)

    def begin(
        self,
        size: float | None,
        examples: int | None,
        loss: Tensor | None,
    ) -> None:
        """A backward pass over ``size`` examples begins; nothing happens while all parameters are
        toggled off.
        """
        parameters = parameters_of(self._optimizer)
        if not any(p.requires_grad for p in parameters):
            return
        self._before = self._stamps()
        if not self._passes:
            self._fault = self._fault_of_first_pass()
        elif self._before != self._after:
            self._passes = []
            self._fault = self._fault_after_zeroing()
        self._open = True
        self._size = size
        self.track.begin(size, 1.0, examples=examples)
        if loss is not None:
            self.track.watch_loss(loss)

    def _fault_of_first_pass(self) -> Reason | None:
        without_gradient = self._before.count(None)
        if without_gradient == len(self._before):
            return None
        if self._before == self._stepped:
            return NOT_ZEROED
        return None

    def _fault_after_zeroing(self) -> Reason | None:
        pairs = zip(self._after, self._before, strict=False)  # parameters may have been added
        if any(old is not None and old == new for old, new in pairs):
            return IN_PART
        return None

    def end(self, serial: int, batch: int, loss_scale: Scalar) -> None:
        """Reads the gradient if the pass has changed it.

        Args:
            serial: number of the pass.
            batch: number of the batch that it was over.
            loss_scale: as in :meth:`Track.step`.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """
        if not self._open:
            return
        self._open = False
        self._after = self._stamps()
        if self._after == self._before:
            self.track.cancel()
            return
        row, fault = self.track.take(loss_scale=loss_scale)
        seen = _Pass(
            row=row,
            fault=fault,
            examples=self._size or 0.0,
            batch=batch,
            serial=serial,
        )
        self._passes.append(seen)
        if self._first:
            self.track.raise_refusal()
        self.track.prepare()

    def step(self, optimizers: Iterable["FollowedOptimizer"]) -> None:
        """Takes the passes since the previous step as one step.

        Args:
            optimizers: all that are followed.

        Raises:
            CannotMeasureError: the passes cannot be right, and this is the first step.
        """
        passes, self._passes = self._passes, []
        self._used = {one.serial for one in passes}
        reason = self._judge(passes, optimizers)
        self._stepped = self._stamps()
        self._fault = None
        if reason is not None and self._first:
            raise CannotMeasureError([reason])
        self._first = self._first and self.track.probe.undecided
        fault = _first_fault(passes)
        if reason is not None:
            fault = reason._replace(severity=Severity.SKIP)
        self._commit(passes, fault)
        self.track.prepare()

    def _commit(self, passes: Sequence[_Pass], fault: Reason | None) -> None:
        """Counts the examples of each batch once, in the first step that uses them."""
        if passes and passes[0].batch <= self._counted:
            note = SEVERAL_STEPS.format(name=self._label)
            self.track.notes.add(note)
        used = new = 0.0
        for one in passes:
            used += one.examples
            if one.batch > self._counted:
                new += one.examples
        if passes:
            latest = passes[-1].batch
            self._counted = max(self._counted, latest)
        rows = [one.row for one in passes]
        self.track.commit(
            combined(rows),
            fault=fault,
            used=used,
            new=new,
            learning_rate=learning_rate(self._optimizer),
        )

    def _judge(
        self, passes: Sequence[_Pass], optimizers: Iterable["FollowedOptimizer"]
    ) -> Reason | None:
        """Why these passes cannot be groups of one step."""
        if not passes:
            return self._reason(NO_PASS)
        batches = {one.batch for one in passes}
        if len(batches) < len(passes):
            return self._reason(TWO_PASSES)
        if len(passes) > 1 and not self.track.probe.sees_every_pass:
            return self._reason(LAST_PASS_ONLY)
        for other in optimizers:
            if other is not self and self._shares_a_pass_with(other):
                return self._reason(SHARED, other=other._label)
        if self._fault is not None:
            return self._reason(self._fault)
        return None

    def _shares_a_pass_with(self, other: "FollowedOptimizer") -> bool:
        if self._used.isdisjoint(other._used):
            return False
        own = map(id, parameters_of(self._optimizer))
        others = map(id, parameters_of(other._optimizer))
        return not set(own).isdisjoint(others)

    def _reason(self, template: Reason, other: str = "") -> Reason:
        """The reason with the names that its text leaves open."""
        probe = self.track.probe.name
        text = template.text.format(name=self._label, other=other, probe=probe)
        return template._replace(text=text)

    @property
    def _label(self) -> str:
        """The optimizer as messages name it."""
        return self.track.name or kind_of(self._optimizer)


def _first_fault(passes: Iterable[_Pass]) -> Reason | None:
    for one in passes:
        if one.fault is not None:
            return one.fault
    return None
