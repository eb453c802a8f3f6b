"""What to measure, as a user may ask for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_noise.core.moments import Key
from lightning_noise.measure.batches import BatchSizeFn
from lightning_noise.probes.probe import Probe

LossFn = Callable[[Any, Any], Any]
CURVED = ("hessian", "gauss_newton")
CURVATURE_EVERY = 100  # steps: a probe costs a few steps


@dataclass(frozen=True, kw_only=True)
class What:
    """What to measure.

    Args:
        probe: "auto", the name of a probe, or a probe.
        geometries: metrics M of gᵀMg; the Euclidean one is measured in any case.
        every_n_steps: measures the first of every so many optimizer steps; ``None``: as the probe
            says, mostly every step, and curvatures every 100th.
        decay: exponential decay per measured step.
        per_layer: True for every module that owns parameters; a number n for the first n parts of
            their names.
        keys: the noise scales to measure, each with the names of the parameters that it is summed
            over; ``None``: as ``per_layer`` says.
        batch_size_fn: batch → number of examples (or tokens, nodes, …), where the length of the
            first tensor is not it.
        loss_fn: (module, batch) → mean loss, or (loss, outputs), for curvatures.
        decay_by_examples: ``decay`` is that of a step of the first size, and larger steps decay by
            as much more.
    """

    probe: str | Probe = "auto"
    geometries: Sequence[str] = ("euclidean",)
    every_n_steps: int | None = None
    decay: float = 0.99
    per_layer: bool | int = False
    keys: Mapping[Key, Sequence[str]] | None = None
    batch_size_fn: BatchSizeFn | str | None = None
    loss_fn: LossFn | None = None
    decay_by_examples: bool = False

    @property
    def curved(self) -> tuple[str, ...]:
        """Geometries that need second derivatives."""
        return tuple(name for name in self.geometries if name in CURVED)
