"""A study made up from a known law, with trials that end in every way: for tests of tables, numbers and figures."""

import math
import random
from typing import Any

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
    """Search trials over a factor 100 in the rate around a centre, then three reruns of each winner.

    The best rate is EPS_MAX / (1 + b_crit/B) as in McCandlish et al. 2018; at ``x`` times it a run takes (1 + ln² x) times the
    steps there, diverges above 2.2 and is incomplete above 4 times the steps.
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
            status = "diverged" if x > 2.2 else "reached" if steps < 4 * best_steps else "incomplete"
            search.append(_row(goal, size, 0, trial, "search", x * best_rate, status, steps))
        winner = min((row for row in search if row["status"] == "reached"), key=lambda row: row["steps"])
        winner["best"] = True
        winner["boundary"] = size == sizes[-1]
        rows += search
        for rerun in range(3):
            steps = best_steps * math.exp(0.05 * draw.gauss(0, 1))
            status = "incomplete" if (size, rerun) == (sizes[0], 0) else "reached"
            rows.append(_row(goal, size, 1000 + rerun, winner["trial"], "rerun", winner["learning_rate"], status, steps))
    return rows


def _row(goal: str, size: int, seed: int, trial: int, phase: str, rate: float, status: str, steps: float) -> dict[str, Any]:
    reached = status == "reached"
    return {
        "goal": goal,
        "global_size": size,
        "seed": seed,
        "trial": trial,
        "phase": phase,
        "learning_rate": rate,
        "param_momentum": 0.9,
        "status": status,
        "steps": float(math.ceil(steps)) if reached else None,
        "examples": float(math.ceil(steps) * size) if reached else None,
        "best_value": None if status == "diverged" else 0.03 if reached else 0.08,
        "best": False,
        "boundary": False,
    }
