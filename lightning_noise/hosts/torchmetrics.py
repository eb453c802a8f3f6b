"""The measurement as a torchmetrics Metric, for a loop of one's own."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from lightning_noise.core.moments import Key, Moments
from lightning_noise.core.windows import Windows
from lightning_noise.measure.measurement import Measurement
from lightning_noise.measure.pending_rows import PendingRow

FIELDS = len(Moments._fields)
STEPS = "steps"


class NoiseScaleMetric(Metric):
    """B_simple from partial moments that every rank contributes; one all_reduce a ``compute``, none
    a step.

    ``update`` takes this rank's PARTIAL record of one optimizer step: the sum over the ranks is the
    step's. With R ranks, local gradient g of b examples and averaged gradient ḡ that is ``(|g|²/R,
    |ḡ|²/R, 1/(R·b), 1/(R²·b))``. All ranks must call it equally often. Averages are plain weighted
    means since the last ``reset``.

    Args:
        confidence: of the two-sided interval.
        **kwargs: as for every torchmetrics Metric.

    >>> metric = NoiseScaleMetric()
    >>> for q_small in (5.0, 5.5, 6.0, 5.2, 5.8, 5.4):
    ...     metric.update(q_small, 4.5, 1.0, 0.5)
    >>> found = {name: round(float(value), 4) for name, value in metric.compute().items()}
    >>> found["b_simple"], found["b_simple_low"], found["b_simple_high"]
    (0.5592, 0.3041, 0.8779)
    """

    full_state_update = True  # rows are kept step by step: two tables cannot be added row on row
    table: Tensor  # (capacity, 4 + 1), the last column counts updates

    def __init__(self, *, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _all_reduce, **kwargs})
        if not 0.5 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), got {confidence!r}.")
        self.confidence = confidence
        self.add_state(
            "table", torch.zeros(0, FIELDS + 1, dtype=torch.float64), dist_reduce_fx="sum"
        )

    def update(
        self,
        q_small: Tensor | float,
        q_big: Tensor | float,
        c_small: Tensor | float,
        c_big: Tensor | float,
    ) -> None:
        """Adds this rank's part of one optimizer step; tensors of one element are not read, so no
        step waits for the device.
        """
        row = self._update_count - 1
        if row >= len(self.table):  # doubled, so that adding stays cheap
            room = self.table.new_zeros(max(64, len(self.table)), FIELDS + 1)
            self.table = torch.cat([self.table, room])
        for column, value in enumerate((q_small, q_big, c_small, c_big)):
            self.table[row, column] = (
                value.detach().reshape(()) if isinstance(value, Tensor) else value
            )
        self.table[row, FIELDS] = 1.0

    def compute(self) -> dict[str, Tensor]:
        """``grad_sq`` and ``trace``, and ``b_simple`` with its two ends where determined; in fp64.

        Empty while no step was usable.
        """
        measurement = Measurement()
        measurement.begin_averages({Key(): Windows(1.0, short=())}, [""])
        measurement.open_steps(STEPS, [Key()], optimizer="")
        updated = self.table[self.table[:, FIELDS] > 0, :FIELDS]
        for values in updated.cpu().double():
            measurement.rows.append(PendingRow(STEPS, values, size=0.0))
        measurement.read()
        estimate = measurement.estimate(confidence=self.confidence)
        if not estimate.steps:
            return {}
        values = {
            "grad_sq": estimate.signal,
            "trace": estimate.noise,
            "b_simple": estimate.noise_scale,
            "b_simple_low": estimate.low,
            "b_simple_high": estimate.high,
        }
        return {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in values.items()
            if value is not None
        }


def _all_reduce(state: Tensor, group: Any = None) -> list[Tensor]:
    """The sum over the ranks in one collective, in the form that torchmetrics expects
    of a gather.
    """
    total = state.clone()
    dist.all_reduce(total, group=group)
    return [total]
