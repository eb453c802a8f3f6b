"""A line of the zoo's table."""

import math
from typing import NamedTuple


class Row(NamedTuple):
    """What was found for one model.

    Numbers that could not be determined are NaN, and texts that say nothing are "".

    Args:
        name, package, version: of the model, and of the package that defines it.
        parameters: trainable numbers.
        batch_norm: whether BatchNorm in train mode ties the examples together.
        oracle: "" where the loop over single examples is a valid oracle; otherwise why not.
        precision: of the exact run and of its oracle, in bits.
        outcome: with default arguments, without accumulation: "measured", "refused", "not measured"
            (no step gave a row) or "failed" (an error that is none of the package's).
        code, reason, passes: of a refusal or an error, and the backward passes before it.
        share_parameters, share_grad_sq: covered, of the parameters (by the probe's account) and of
            |ḡ|² (by the oracle).
        left_out: parameters that are not covered, by cause.
        sketched: relative error of the mean of q_small over the measured steps.
        standard_error: of that mean, relative to the truth.
        q_big: largest relative error of |ḡ|² in these steps.
        exact_small, exact_big: largest relative errors of exact norms of the covered part, however
            small that is.
        identical: "yes" where gradients, weights and random state are bit-identical to those of a
            run without the callback, in all steps that were made; "" where no step was made.
        split_outcome, split_reason: with ``split=2``.
        split_small, split_big: largest relative errors there.
        split_identical: as ``identical``.
    """

    name: str
    package: str
    version: str = ""
    parameters: int = 0
    batch_norm: bool = False
    oracle: str = ""
    precision: int = 0
    outcome: str = "failed"
    code: str = ""
    reason: str = ""
    passes: int = 0
    share_parameters: float = float("nan")
    share_grad_sq: float = float("nan")
    left_out: str = ""
    sketched: float = float("nan")
    standard_error: float = float("nan")
    q_big: float = float("nan")
    exact_small: float = float("nan")
    exact_big: float = float("nan")
    identical: str = ""
    split_outcome: str = "failed"
    split_reason: str = ""
    split_small: float = float("nan")
    split_big: float = float("nan")
    split_identical: str = ""

    @property
    def measured(self) -> bool:
        """Whether it was measured with nothing changed."""
        return self.outcome == "measured"

    @property
    def standard_errors(self) -> float:
        """The error of the sketched norm in standard errors; 0 where rounding explains it."""
        if abs(self.sketched) < ROUNDING:
            return 0.0
        if self.standard_error == 0:
            return math.inf
        return abs(self.sketched) / self.standard_error


ROUNDING = 1e-4  # relative; in single precision
