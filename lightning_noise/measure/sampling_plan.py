"""How many probes of which size reach the requested precision: pilot, forecast, doubling."""

import math
from collections.abc import Sequence

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import gradient_rules_error, relative_error

STAGE = 8  # probes: the least that an interval should rest on


class Plan:
    """Decides after every stage what the next one is, and says how many examples the whole needs.

    |G|² and GᵀHG get more precise with the square of a probe's examples until it holds about a
    noise scale of them, the traces only with the number of probes. So while the first is the less
    precise one, probes double in size; then their number is what the forecast says. A stage uses no
    more than all before it did, since an early forecast is an order of magnitude.

    Args:
        target: requested standard error of the noise scale, relative to it.
        max_examples: stops there.
    """

    def __init__(self, target: float, max_examples: float) -> None:
        self.target, self.max_examples = target, max_examples
        self.pairs = 1  # of micro-batches in a probe
        self.probes = STAGE
        self.used = 0.0
        self.stage_examples = 0.0  # about what the next stage uses, once the pilot is done
        self.needed: float | None = None  # examples in all, by the latest forecast

    def next_stage(self, averages: Sequence[RunningAverage], probe_examples: float) -> bool:
        """Sets ``pairs`` and ``probes`` of the next stage; False where the error is reached or the
        examples are used up.

        Args:
            averages: of everything measured, one a geometry.
            probe_examples: examples that one probe of the stage just done used.
        """
        self.stage_examples = 0.0
        errors = [relative_error(average) for average in averages]
        self.needed = self._forecast(errors)
        if self.needed is not None and self.needed <= self.used:
            return False
        left = self.max_examples - self.used
        if self._larger_probes_help(averages, errors) and left >= 2 * probe_examples * STAGE:
            self.pairs *= 2
            probe_examples *= 2
            self.probes = STAGE
            self.stage_examples = self.probes * probe_examples
            return True
        wanted = self.used
        if self.needed is not None:
            wanted = min(self.needed - self.used, self.used)
        probes = max(STAGE, math.ceil(wanted / probe_examples))
        self.probes = int(min(probes, left / probe_examples))
        self.stage_examples = self.probes * probe_examples
        return self.probes > 0

    def _larger_probes_help(
        self, averages: Sequence[RunningAverage], errors: Sequence[float | None]
    ) -> bool:
        """Whether some average is too imprecise because of its gradient."""
        for average, error in zip(averages, errors, strict=True):
            is_precise = error is not None and error <= self.target
            if not is_precise and gradient_rules_error(average):
                return True
        return False

    def _forecast(self, errors: Sequence[float | None]) -> float | None:
        known = [error for error in errors if error is not None]
        if not known or len(known) < len(errors):
            return None
        excess = max(1.0, max(known) / self.target)
        return self.used * excess**2
