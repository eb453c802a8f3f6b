"""One attachment of the probe to a model, and its step in progress."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from lightning_noise.core.moments import Key
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.directions import mix
from lightning_noise.probes.examples.faults import left_out, watched_in_calls
from lightning_noise.probes.examples.model import Model
from lightning_noise.probes.examples.step import Pass, Step
from lightning_noise.probes.examples.watch import Watch
from lightning_noise.probes.probe import NO_GROUP
from lightning_noise.probes.rows import replicated


class Attachment:
    """What the hooks on a model see, step after step.

    Args:
        model: keeps what the steps have shown.
        watch: the hooks.
        keys: for each noise scale, the names of the parameters that it is summed over.
        replicas: ranks whose gradients are averaged.
    """

    def __init__(
        self,
        model: Model,
        watch: Watch,
        keys: Mapping[Key, Sequence[str]],
        replicas: int,
    ) -> None:
        self._model = model
        self._watch = watch
        self._keys = keys
        self._replicas = replicas
        self._step = Step()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Leaves neither a hook nor a step in progress behind after the context."""
        try:
            with self._watch.attach():
                yield
        finally:
            self._model.uncompiled.end()
            self._forget_step()

    def listen(self, examples: int | None) -> None:
        """A forward pass begins, over so many examples where that is known."""
        self._model.uncompiled.begin()
        self._watch.listen(examples, record=self._check_is_due())

    def rest(self) -> None:
        """No forward or backward pass is in progress."""
        self._watch.rest()
        self._model.uncompiled.end()

    def _check_is_due(self) -> bool:
        model = self._model
        return self._step.micro_batches == 0 and model.checks.due(model.scope.covered)

    def begin(self, begun: Pass, index: int) -> None:
        """A micro-batch of the optimizer step ``index`` begins."""
        model = self._model
        model.uncompiled.begin()
        model.begun = True
        self._step.open = begun
        if self._check_is_due():
            model.checks.open(self._watch.norms.device)
        if model.checks.sums is not None:
            model.checks.begin(model.checks.sums, model.scope.covered)
        seed = mix(model.seed, index, self._step.micro_batches, model.rank)
        self._watch.begin(begun.examples, seed, model.checks.sums)

    def watch_loss(self, loss: Tensor, index: int) -> None:
        """Shows the loss of the open micro-batch: examples may mix on the way to it."""
        step = self._step
        checks = self._model.checks
        if step.open is None or step.micro_batches > 0 or not checks.wants_loss:
            return
        seed = mix(self._model.seed, index, -1)  # without the rank: all ranks find the same
        found = self._watch.check_mixing(loss, seed)
        checks.take_mixing(found)
        self._model.learn_mixing(found)

    def end(self) -> None:
        """The open micro-batch ends."""
        ended = self._step.close()
        if ended is None:
            return
        seen = self._watch.end()
        self._model.learn(seen)
        self._model.checks.end(complete=seen.fault is None)
        if seen.fault is not None:
            self._step.spoil(seen.fault)
        self._drop(seen.dropped)
        self._step.add(ended, seen)

    def _drop(self, causes: Mapping[str, Cause]) -> None:
        if not causes:
            return
        handed = self._model.scope.hand_over(causes)
        self._watch.leave_out(causes, handed)
        self._step.handed |= handed.keys()
        if handed:
            self._step.spoil(watched_in_calls(handed))
        rest = {name: cause for name, cause in causes.items() if name not in handed}
        if rest:
            groups = self._model.scope.drop(rest)
            self._step.spoil(left_out(groups))

    def row(self) -> Wide | None:
        """Ends the step and returns its moments; ``None`` where nothing was seen.

        The ``last_fault`` of the model tells whether they can be used.
        """
        row = None
        if self._step.seen:
            row = self._moments()
        else:
            self._step.spoil(NO_GROUP)
        self._model.conclude(self._step)
        self._forget_step()
        return row

    def _moments(self) -> Wide:
        model = self._model
        norms = self._watch.norms
        covered = model.scope.covered
        compared = {name: p for name, p in covered.items() if name not in self._step.handed}
        causes = model.checks.compare(compared)
        if causes is not None:
            self._drop(causes)
            model.scope.weigh()
        covered = model.scope.covered
        norms.add_gradients(covered)
        row = self._step.row(norms.total())
        for index, names in enumerate(self._keys.values()):
            if covered.keys().isdisjoint(names):
                row[index] = 0  # none of its layers is covered: the step is not this key's
        return replicated(row, self._replicas)

    def discard(self) -> None:
        """Forgets the step in progress and what it has shown."""
        self._watch.cancel()
        self._forget_step()

    def _forget_step(self) -> None:
        self._step = Step()
        self._model.checks.close()
