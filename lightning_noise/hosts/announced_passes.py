"""The passes over the micro-batches of one optimizer, as a loop in plain torch announces them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_noise.measure.session import Session


class AnnouncedPasses:
    """Passes the events of a loop with one optimizer to its session.

    Args:
        session: the measurement.
        accumulation: micro-batches per optimizer step; 0 where it is not known.
    """

    def __init__(self, session: Session, accumulation: int) -> None:
        self.session = session
        self.track = session.tracks[0]
        self._accumulation = accumulation
        self._size: float | None = None  # of the micro-batch that was begun
        self._weight = 1.0
        self._begun = False  # whether the probe watches it

    @contextmanager
    def micro_batch(self, size: float, weight: float, batch: Any) -> Iterator[None]:
        """Around the passes over a micro-batch; an exception abandons the step in progress."""
        self.begin(size, weight, batch)
        try:
            yield
        except BaseException:
            self.track.abandon()
            self.track.rest()
            raise
        self.end()

    def begin(self, size: float | None, weight: float, batch: Any) -> None:
        """The passes over a micro-batch begin. With curvatures the probe does not watch before
        :meth:`backward`, because their products are not gradients of the step.
        """
        self._size = size
        self._weight = weight
        step = self.track.optimizer_steps
        self.session.curvature.batch(batch, size, accumulation=self._accumulation, step=step)
        examples: int | None = None
        if size is not None and math.isfinite(size):
            examples = round(size)
        self.track.prepare(examples)
        self._begun = not self.session.what.curved
        if self._begun:
            self.track.begin(size, weight)

    def backward(self, loss: Tensor) -> None:
        """Calls ``loss.backward()``."""
        self.session.curvature.before_backward(loss, lambda: self._weight)
        if not self._begun:
            self._begun = True
            self.track.begin(self._size, self._weight)
        self.track.watch_loss(loss)
        loss.backward()
        self.session.curvature.after_backward(self._size)

    def end(self) -> None:
        """The passes over the micro-batch are over.

        Raises:
            RuntimeError: a curvature is measured, and :meth:`backward` was not called.
        """
        if not self._begun:
            geometry = self.session.what.curved[0]
            raise RuntimeError(
                f"Call monitor.backward(loss) in place of loss.backward(): geometry {geometry!r} "
                "needs the graph of the loss before the backward pass."
            )
        self.track.end()
        self.track.rest()
