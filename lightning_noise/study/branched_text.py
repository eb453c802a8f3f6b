"""What a check by branches reports as text: its summary and its warnings."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_noise.core.branches import SHARE, Bracket, Difference, not_monotone
from lightning_noise.say.log_keys import name_of
from lightning_noise.say.words import count, interval, number

if TYPE_CHECKING:
    from lightning_noise.study.branched_result import BranchedCheck

FEW_STEPS = 10
UNEVEN = 1.01  # ratio of the examples that two branches saw


def summary_of(check: "BranchedCheck") -> str:
    """The findings as text."""
    lines = [
        f"{check.rows[0].seeds} branches at each batch size, {count(check.examples, 'example')} "
        f"each; learning rate held, {check.rate_rule}",
        *_progress_lines(check),
    ]
    for row in check.rows:
        steps = count(check.examples / row.global_size, "step")
        per_step = count(row.global_size, "example")
        lines.append(f"  {per_step:>17} per step, {steps}: {_of_row(check, row)}")
    lines += _answer_lines(check)
    for text in check.warnings:
        lines.append(f"warning: {text}")
    return "\n".join(lines)


def _progress_lines(check: "BranchedCheck") -> Iterator[str]:
    reference = check.rows[0]
    yield (
        f"  {check.metric} {number(check.start)} at the checkpoint, {number(reference.value)} at "
        f"the end of the reference, {reference.global_size} per step"
    )
    if check.tolerance is None:
        return
    origin = ""
    if check.is_share:
        origin = f", {SHARE:.0%} of what the reference gained"
    yield f"  tolerance {number(check.tolerance)}{origin}"


def _of_row(check: "BranchedCheck", row: Difference) -> str:
    if row.global_size == check.rows[0].global_size:
        return "the reference"
    if row.diverged:
        return f"too large, {row.diverged} of {row.seeds} diverged"
    text = f"worse by {number(row.worse)} [{number(row.low)}, {number(row.high)}]"
    if check.tolerance is None:
        return text
    if row.high <= check.tolerance:
        return f"{text}, fine"
    if row.low > check.tolerance:
        return f"{text}, too large"
    return f"{text}, not resolved"


def _answer_lines(check: "BranchedCheck") -> Iterator[str]:
    found = check.bracket
    if found is not None:
        text = f"critical batch size here: {interval(found.low, found.high)} examples"
        if found.critical is not None:
            text += f", {number(found.critical)} by interpolation"
        yield text
    for geometry, estimate in check.noise_scales.items():
        text = interval(estimate.low, estimate.high)
        if estimate.noise_scale is not None:
            text = f"{number(estimate.noise_scale)} [{text}]"
        yield f"{name_of(geometry)} at the checkpoint: {text}"


def warnings_of(check: "BranchedCheck") -> Iterator[str]:
    """Every reason to distrust the result, each with what mends it."""
    yield from _of_runs(check)
    found = check.bracket
    if found is None:
        bounds = f"{number(check.gain.low)} to {number(check.gain.high)}"
        yield (
            "nothing is decided, because what the reference gained is not resolved from zero "
            f"({bounds}). Give tolerance=..., more examples or more seeds"
        )
        return
    yield from _of_bracket(check, found)


def _of_runs(check: "BranchedCheck") -> Iterator[str]:
    largest = check.rows[-1].global_size
    steps = check.examples // largest
    if steps < FEW_STEPS:
        yield (
            f"the branches at {largest} take only {count(steps, 'step')}, too few to recover from "
            f"the change of the learning rate. Raise examples to {FEW_STEPS * largest} or more"
        )
    first = check.rows[0].global_size
    ends = {run.value for run in check.runs if run.global_size == first}
    if len(ends) == 1:
        yield (
            "all seeds of the reference ended at the same value, so the intervals hold no noise. "
            "Order the examples by the seed that make_data is given"
        )
    seen = [run.seen for run in check.runs if run.seen]
    if seen and max(seen) > UNEVEN * min(seen):
        yield (
            "the branches saw different numbers of examples, by the first dimension of their "
            f"batches: {min(seen)} to {max(seen)}. Let make_data give batches of exactly "
            "global_size examples, with drop_last=True"
        )


def _of_bracket(check: "BranchedCheck", found: Bracket) -> Iterator[str]:
    reference = check.rows[0].global_size
    if found.high is None:
        yield (
            "the critical batch size has no upper bound: no batch size is surely too large. Add "
            "larger factors, or more seeds"
        )
    if found.low == reference:
        yield (
            f"the lower bound {reference} is the reference itself, which is fine by definition: "
            "no larger one surely is. Add smaller factors, or more seeds"
        )
    pair = not_monotone(check.rows, check.tolerance or 0.0)
    if pair is not None:
        yield (
            f"{pair[0]} is surely too large, but {pair[1]} is surely fine, so their learning rates "
            "do not suit alike. Try another rule with learning_rate=..."
        )
