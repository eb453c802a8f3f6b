"""A study made up from a known law, with trials that end in every way.

For tests of tables, numbers and figures.
"""

import math
import random
from typing import Any

from lightning_noise.report.terms import DIVERGED, INCOMPLETE, REACHED, RERUN, SEARCH

B_CRIT, S_MIN, EPS_MAX = 300.0, 400.0, 1.2
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def study(
    *,
    goal: str = "error 3 %",
    harder: float = 1.0,
    b_crit: float = B_CRIT,
    sizes: tuple[int, ...] = SIZES,
    trials: int = 20,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Search trials over a factor 100 in the rate around a centre, then three reruns per winner.

    The best rate is EPS_MAX / (1 + b_crit/B) as in McCandlish et al. 2018; at ``x`` times it a run
    takes (1 + ln² x) times the steps there, diverges above 2.2 and is incomplete above 4 times the
    steps.
    """
    draw = random.Random(seed)
    rows = []
    for size in sizes:
        best_rate = EPS_MAX / (1 + b_crit / size)
        best_steps = harder * S_MIN * (1 + b_crit / size)
        search = []
        for trial in range(trials):
            x = math.exp((trial + draw.random()) / trials * math.log(100) - math.log(30))
            steps = best_steps * (1 + math.log(x) ** 2) * math.exp(0.03 * draw.gauss(0, 1))
            row = _row(goal, size, 0, trial, SEARCH, x * best_rate)
            search.append(_ended(row, _status(x, steps / best_steps), steps))
        reached = [row for row in search if row["status"] == REACHED]
        winner = min(reached, key=lambda row: row["steps"])
        winner["best"] = True
        winner["boundary"] = size == sizes[-1]
        rows += search
        for rerun in range(3):
            steps = best_steps * math.exp(0.05 * draw.gauss(0, 1))
            missed = (size, rerun) == (sizes[0], 0)
            status = INCOMPLETE if missed else REACHED
            seed_of_run = 1000 + rerun
            row = _row(goal, size, seed_of_run, winner["trial"], RERUN, winner["learning_rate"])
            rows.append(_ended(row, status, steps))
    return rows


def _status(x: float, excess: float) -> str:
    if x > 2.2:
        return DIVERGED
    return REACHED if excess < 4 else INCOMPLETE


BEST_VALUES = {REACHED: 0.03, INCOMPLETE: 0.08, DIVERGED: None}


def _row(goal: str, size: int, seed: int, trial: int, phase: str, rate: float) -> dict[str, Any]:
    return {
        "goal": goal,
        "global_size": size,
        "seed": seed,
        "trial": trial,
        "phase": phase,
        "learning_rate": rate,
        "param_momentum": 0.9,
    }


def _ended(row: dict[str, Any], status: str, steps: float) -> dict[str, Any]:
    taken = float(math.ceil(steps)) if status == REACHED else None
    return {
        **row,
        "status": status,
        "steps": taken,
        "examples": None if taken is None else taken * row["global_size"],
        "best_value": BEST_VALUES[status],
        "best": False,
        "boundary": False,
    }
