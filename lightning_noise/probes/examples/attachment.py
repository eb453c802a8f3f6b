"""One attachment of the probe to a model, and the step that is in progress in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from lightning_noise.core.moments import Key
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.directions import mix
from lightning_noise.probes.examples.model import Model
from lightning_noise.probes.examples.step import Pass, Step
from lightning_noise.probes.examples.watch import Watch
from lightning_noise.probes.rows import replicated


class Attachment:
    """What a model's hooks see while they are there, step after step.

    Args:
        model: what the steps are learned for.
        watch: the hooks.
        keys: for each number wanted, the names of the parameters it is summed over.
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
        """Leaves no hook behind after the context, nor a step in progress."""
        try:
            with self._watch.attach():
                yield
        finally:
            self._forget_step()

    def listen(self) -> None:
        """A forward pass begins."""
        self._watch.listen(record=self._check_is_due())

    def rest(self) -> None:
        """No pass is under way."""
        self._watch.rest()

    def _check_is_due(self) -> bool:
        model = self._model
        return self._step.micro_batches == 0 and model.checks.due(model.scope.covered)

    def begin(self, begun: Pass, index: int) -> None:
        """A micro-batch of the optimizer step ``index`` begins."""
        model = self._model
        model.begun = True
        self._step.open = begun
        if self._check_is_due():
            model.checks.open(self._watch.norms.device)
        if model.checks.sums is not None:
            model.checks.begin(model.checks.sums, model.scope.covered)
        seed = mix(model.seed, index, self._step.micro_batches, model.rank)
        self._watch.begin(begun.examples, seed, model.checks.sums)

    def watch_loss(self, loss: Tensor, index: int) -> None:
        """The loss of the micro-batch that was begun: examples may mix on the way to it."""
        step, checks = self._step, self._model.checks
        if step.open is None or step.micro_batches > 0 or not checks.wants_loss:
            return
        seed = mix(self._model.seed, index, -1)  # without the rank: all ranks find the same
        found = self._watch.check_mixing(loss, seed)
        checks.take_mixing(found)
        self._model.learn_mixing(found)

    def end(self) -> None:
        """The micro-batch that was begun ends."""
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
        if causes:
            groups = self._model.scope.drop(causes)
            named = "; ".join(f"{group.names} ({group.reason})" for group in groups)
            self._step.spoil(f"left out from the next step on: {named}")

    def row(self) -> Tensor | None:
        """Moments of the step, which ends; ``None`` where nothing was seen.

        Whether they can be used is the model's ``last_fault``.
        """
        row = self._moments() if self._step.seen else None
        self._model.conclude(self._step)
        self._forget_step()
        return row

    def _moments(self) -> Tensor:
        model, norms = self._model, self._watch.norms
        causes = model.checks.compare(model.scope.covered)
        if causes is not None:
            self._drop(causes)
            model.scope.weigh()
        covered = model.scope.covered
        for name, parameter in covered.items():
            if parameter.grad is not None:
                norms.add(norms.cell_of[name], parameter.grad)
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
