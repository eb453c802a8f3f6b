"""Which backward passes make up an optimizer's step: announced by the host, or inferred from the
gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from lightning_noise.measure.followed_optimizer import FollowedOptimizer
from lightning_noise.measure.optimizers import kind_of, learning_rate
from lightning_noise.measure.pending_rows import Scalar
from lightning_noise.measure.track import Track

SEVERAL_PASSES = (
    "{name} evaluates the gradient several times per step: only the first evaluation, at the "
    "weights before the step, is measured and counted"
)


class Steps(ABC):
    """Turns the host's calls into calls of one or more tracks."""

    @abstractmethod
    def batch(self, examples: int | None = None) -> None:
        """A batch of so many examples begins; its forward pass is still to come."""

    @abstractmethod
    def begin(
        self,
        size: float | None,
        weight: float,
        examples: int | None,
        loss: Tensor | None,
    ) -> None:
        """A backward pass over ``size`` examples begins, from ``loss``."""

    @abstractmethod
    def end(self, *, last: bool, loss_scale: Scalar) -> None:
        """The backward pass is over; ``last``: the optimizer steps next.

        Raises:
            CannotMeasureError: what a probe can only find out in its first backward pass.
        """

    @abstractmethod
    def step(self, optimizer: Optimizer | None) -> None:
        """``optimizer`` is about to step.

        Raises:
            CannotMeasureError: its gradient can never be right.
        """

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
        self._rate: Scalar = None

    def batch(self, examples: int | None = None) -> None:
        """Tells a probe that watches forward passes that one begins."""
        self._seen = False
        # inside the step the learning rate may carry an adaptive factor
        self._rate = learning_rate(self._track.optimizer)
        self._track.prepare(examples)

    def begin(
        self,
        size: float | None,
        weight: float,
        examples: int | None,
        loss: Tensor | None,
    ) -> None:
        """Opens the gate of the probe."""
        if self._seen:
            name = kind_of(self._track.optimizer)
            note = SEVERAL_PASSES.format(name=name)
            self._track.notes.add(note)
            return
        self._track.begin(size, weight, examples=examples)
        if loss is not None:
            self._track.watch_loss(loss)

    def end(self, *, last: bool, loss_scale: Scalar) -> None:
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
        if self._first:
            self._first = self._track.probe.undecided
            self._track.raise_refusal()

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
        self._followed: dict[int, FollowedOptimizer] = {}
        for track in tracks:
            one = FollowedOptimizer(track)
            self._followed[id(track.optimizer)] = one
        self._batch = 0
        self._pass = 0

    def batch(self, examples: int | None = None) -> None:
        """Tells probes that watch forward passes that one begins."""
        self._batch += 1
        for one in self._followed.values():
            one.track.prepare(examples)

    def begin(
        self,
        size: float | None,
        weight: float,  # not known here
        examples: int | None,
        loss: Tensor | None,
    ) -> None:
        """Opens the gates of all probes: whose pass it is, and with several optimizers whose loss,
        is known only when the pass is over.
        """
        self._pass += 1
        if len(self._followed) > 1:
            loss = None
        for one in self._followed.values():
            one.begin(size, examples, loss)

    # ``last`` is not known here
    def end(self, *, last: bool, loss_scale: Scalar) -> None:
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
            one.step(self._followed.values())

    def rest(self) -> None:
        """The batch is over: until now the loop may have called the layers once more."""
        for one in self._followed.values():
            one.track.rest()
