"""A bound model, and what its steps have shown."""

from torch import nn

from lightning_noise.core.reasons import Reason
from lightning_noise.probes.examples.checks import Checks
from lightning_noise.probes.examples.errors import UnsupportedModelError
from lightning_noise.probes.examples.mixing import Mixing
from lightning_noise.probes.examples.pass_seen import PassSeen
from lightning_noise.probes.examples.scope import Scope
from lightning_noise.probes.examples.step import Step
from lightning_noise.probes.examples.uncompiled import Uncompiled


class Model:
    """What the probe knows about the model that it is bound to.

    Args:
        module: the model.
        min_coverage: smallest share of it that must be covered.
        calls: whether calls of functions are watched where no layer covers a parameter.
        seed: of the signs.
        rank: of this process.
        eager: whether passes run without ``torch.compile``.

    Attributes:
        module: the model.
        scope: what is covered.
        uncompiled: keeps ``torch.compile`` away from passes, where that was requested.
        checks: what the checks have shown.
        several: parameters that are used more than once.
        begun: whether a micro-batch has begun.
        last_fault: why the latest step could not be used.
        handed: whether parameters were handed over to the watch on calls in it.
    """

    def __init__(
        self,
        module: nn.Module,
        min_coverage: float,
        seed: int,
        rank: int,
        *,
        calls: bool = True,
        eager: bool = False,
    ) -> None:
        self.module = module
        self.seed = seed
        self.rank = rank
        self.uncompiled = Uncompiled(eager)
        self.scope = Scope(module, min_coverage, calls=calls, eager=eager)
        self.checks = Checks()
        self.several: frozenset[str] = frozenset()
        self.begun = False
        self.last_fault: Reason | None = None
        self.handed = False
        self._matched = False
        self._as_long: dict[str, bool] = {}

    def learn(self, seen: PassSeen) -> None:
        """Remembers what one backward pass has shown of the layers."""
        self._matched |= seen.matched
        self.several |= seen.several
        for layer, as_long in seen.as_long.items():
            before = self._as_long.get(layer, True)
            self._as_long[layer] = as_long and before

    def learn_mixing(self, found: Mixing) -> None:
        """Remembers which layers have positions along dimension 1, so that it is not the batch."""
        if found.along_positions:
            for layer in (*self._as_long, *found.checked):
                self._as_long[layer] = False

    def conclude(self, step: Step) -> None:
        """A step is over."""
        self.checks.settle(step.positions)
        self.handed = bool(step.handed)
        refusal = self.scope.refusal
        if self.checks.mixed is not None:
            self.last_fault = self.checks.mixed.skip
        elif step.fault is None and refusal is not None:
            self.last_fault = refusal.skip
        else:
            self.last_fault = step.fault

    @property
    def doubtful(self) -> list[str]:
        """Layers that always had as many positions as examples.

        A batch along dimension 1 would not be noticed there.
        """
        return [layer for layer, as_long in self._as_long.items() if as_long]

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why currently no step can be used."""
        refusal = self.scope.refusal
        nothing_seen = self.begun and not self._matched and not self.handed
        if refusal is None and nothing_seen and self.last_fault is not None:
            return UnsupportedModelError(
                self.last_fault.code,
                f"the examples probe saw no step that it could use: {self.last_fault.text}",
                "Put the examples along dimension 0, pass batch_size_fn if their number is not the "
                "length of the first tensor, or accumulate gradients over two micro-batches or "
                "more, each of half the batch size",
            )
        return self.checks.mixed or refusal
