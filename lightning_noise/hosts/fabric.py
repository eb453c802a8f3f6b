"""A measurement driven from a loop with Lightning Fabric."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from lightning_noise.hosts.distributed import reduction_over
from lightning_noise.measure.optimizers import learning_rate
from lightning_noise.measure.session import Session
from lightning_noise.measure.what import What
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.sharding import is_sharded, plainly_named
from lightning_noise.say.log_keys import InUse, optimizer_values


class FabricNoiseScale:
    """Measures the noise scale of a training loop with Fabric.

    Args:
        fabric: that set up the model and the optimizer.
        model, optimizer: as ``fabric.setup`` returns them.
        accumulation: micro-batches per optimizer step.
        what: as for ``lightning_noise.measure.what.What``: probe, geometries, decay, …

    Raises:
        CannotMeasureError: no step will have two groups of gradients.
    """

    def __init__(
        self, fabric: Fabric, model: Any, optimizer: Any, *, accumulation: int = 1, **what: Any
    ) -> None:
        self._fabric = fabric
        self._accumulation = accumulation
        self._optimizer = optimizer.optimizer
        setup = Setup(
            ranks=fabric.world_size,
            rank=fabric.global_rank,
            reduce=reduction_over(fabric.world_size),
            accumulation=accumulation,
            forward_context=fabric.autocast,
        )
        module = model.module
        optimizers = {"": self._optimizer}
        named = module.named_parameters
        outermost = module
        if is_sharded(model, module.parameters()):
            # FSDP's own wrapper is inside Fabric's alone
            named = partial(plainly_named, module)
            outermost = model
        self.session = Session(What(**what), setup, named, optimizers, outermost)

    @contextmanager
    def open(self, state: Mapping[str, Any] | None = None) -> Iterator["FabricNoiseScale"]:
        """Measures inside the context, from a :meth:`state_dict`; no hook stays behind after it."""
        with self.session.open(state):
            yield self

    def batch(self, batch: Any) -> None:
        """A batch is about to go forward."""
        self.session.batch(batch, accumulation=self._accumulation)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """``fabric.backward(loss)`` of a loss divided by ``accumulation``; ``last``: the optimizer
        steps next.
        """
        # only the "16-mixed" plug-in has one
        scaler = getattr(self._fabric.strategy.precision, "scaler", None)
        scale: Tensor | None = None
        if scaler is not None:
            scale = scaler.scale(loss.new_ones(()))
        self.session.backward(loss)
        self._fabric.backward(loss)
        self.session.backward_done(last=last, loss_scale=scale)
        self.session.batch_done()

    def log(self, step: int) -> dict[str, float]:
        """Reads what waits, on all ranks, and logs it through Fabric's loggers."""
        self.session.read()
        rate = float(learning_rate(self._optimizer) or 0.0)
        keys = self.session.readings.averages
        estimates = {key: self.session.estimate(key) for key in keys}
        in_use = InUse(rate, self.session.tally.global_size)
        values = optimizer_values(estimates, "", in_use)
        self._fabric.log_dict(values, step=step)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything measured, as plain Python values; call it on all ranks."""
        return self.session.state_dict()
