"""What ``measure_noise_scale`` shows while it runs: a bar, and how many examples it will use."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_noise.measure.sampling_plan import Plan
from lightning_noise.say.words import number

if find_spec("ipywidgets"):  # tqdm.auto warns in a notebook without it
    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # ships no types
else:
    from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types


class PauseProgress:
    """The bar over the examples of a plan.

    Its total, and so the time left, is shown once there is a forecast.

    Args:
        plan: read, never changed.
        bar: a tqdm bar.
    """

    def __init__(self, plan: Plan, bar: Any) -> None:
        self._plan = plan
        self._bar = bar
        self._announced = False
        self._had_forecast = False

    def probe_done(self) -> None:
        """Moves the bar to the examples used."""
        used = round(self._plan.used)
        self._bar.update(used - self._bar.n)

    def stage_done(self) -> None:
        """Shows the latest forecast; prints it after the pilot, or later when there is one."""
        self._bar.total = expected_examples(self._plan)
        has_forecast = self._plan.needed is not None
        if not self._announced or (has_forecast and not self._had_forecast):
            with self._bar.external_write_mode(file=sys.stderr):  # without the bar in that line
                rank_zero_info(f"measure_noise_scale: {forecast_text(self._plan)}")
        self._announced = True
        self._had_forecast = self._had_forecast or has_forecast


@contextmanager
def show_progress(plan: Plan, *, shown: bool) -> Iterator[PauseProgress]:
    """The bar of a plan; it is removed at the end."""
    look = {
        "desc": "noise scale",
        "unit": " examples",
        "dynamic_ncols": True,
        "leave": False,
    }
    # smoothing=0: the mean speed since the start. The latest probes are of different sizes, so
    # their speed would misjudge the time left.
    with tqdm(**look, smoothing=0, disable=not shown) as bar:
        yield PauseProgress(plan, bar)


def expected_examples(plan: Plan) -> int | None:
    """Examples used in all, with the next stage complete; ``None`` while there is no forecast.

    >>> plan = Plan(target=0.2, max_examples=50_000)
    >>> plan.used, plan.needed = 2896.0, 366434.17
    >>> expected_examples(plan)
    50000
    """
    if plan.needed is None:
        return None
    next_stage = plan.used + plan.stage_examples
    expected = min(max(plan.needed, next_stage), plan.max_examples)
    return round(max(plan.used, expected))


def forecast_text(plan: Plan) -> str:
    """How many examples the target takes.

    >>> plan = Plan(target=0.001, max_examples=50_000)
    >>> plan.used, plan.needed = 2896.0, 366434.17
    >>> forecast_text(plan)[len("after 2896 examples, "):]
    'a relative error of 0.1 % needs about 370000 examples; at most 50000 are used.'
    """
    if plan.needed is None:
        need = "a noise scale is not resolved, so the number of examples needed is not known yet"
    else:
        two_digits = f"{plan.needed:.2g}"  # a forecast has no more
        needed = number(float(two_digits))
        percent = number(100 * plan.target)
        need = f"a relative error of {percent} % needs about {needed} examples"
    forecast = f"after {plan.used:.0f} examples, {need}"
    if plan.max_examples == math.inf:
        return f"{forecast}."
    return f"{forecast}; at most {plan.max_examples:.0f} are used."
