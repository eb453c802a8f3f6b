"""What an adaptive run is said to have saved, against the large-batch model."""

import pytest

from lightning_noise.adapt.adaptive_summary import (
    Period,
    fixed_use,
    same_examples_size,
    summary,
    used,
)
from lightning_noise.core.tradeoff import gamma


def periods(sizes, scales, progress=50.0):
    """A run that makes the same progress in each period, at sizes and noise scales given."""
    found = []
    for epoch, (size, b) in enumerate(zip(sizes, scales, strict=True)):
        steps = progress * (1 + b / size)
        found.append(Period(epoch, size, round(steps), size * round(steps), b))
    return found


def test_a_fixed_run_is_its_own_story():
    run = periods([64.0] * 5, [100.0, 150.0, 220.0, 330.0, 500.0])
    use = fixed_use(run, 64.0)
    assert (use.steps, use.examples) == (
        pytest.approx(used(run).steps),
        pytest.approx(used(run).examples),
    )
    assert same_examples_size(run) == pytest.approx(64.0)


def test_the_best_schedule_gains_what_the_model_says():
    """B = sqrt(rate · b): its steps beyond the least are gamma times those of the fixed size with
    the same examples (D.4).
    """
    scales = [100.0, 400.0, 1600.0, 6400.0]
    run = periods([(900.0 * b) ** 0.5 for b in scales], scales, progress=1e6)
    fixed = fixed_use(run, same_examples_size(run))
    least = 4 * 1e6
    assert fixed.examples == pytest.approx(used(run).examples)
    assert (used(run).steps - least) / (fixed.steps - least) == pytest.approx(
        gamma(scales), rel=1e-5
    )


def test_following_the_noise_scale_itself_gains_nothing_by_the_model():
    """B = b costs what the fixed size of the mean noise scale costs: the root of eq. D.3 is what
    gains.
    """
    scales = [100.0, 400.0, 1600.0]
    run = periods(scales, scales, progress=1e6)
    size = same_examples_size(run)
    assert size == pytest.approx(700.0) and fixed_use(run, size).steps == pytest.approx(
        used(run).steps
    )


def test_periods_that_did_not_resolve_take_the_value_before_or_the_next_after():
    known = periods([32.0] * 4, [80.0, 80.0, 200.0, 200.0])
    gaps = [
        p._replace(noise_scale=b) for p, b in zip(known, [None, 80.0, None, 200.0], strict=True)
    ]
    expected = [
        p._replace(noise_scale=b) for p, b in zip(known, [80.0, 80.0, 80.0, 200.0], strict=True)
    ]
    assert fixed_use(gaps, 64.0) == fixed_use(expected, 64.0)


def test_nothing_resolved_nothing_said():
    run = [Period(0, 32.0, 10, 320.0, None), Period(1, 64.0, 10, 640.0, None)]
    assert fixed_use(run, 64.0) is None and same_examples_size(run) is None
    assert summary([], 1.0) == []
    (line,) = summary(run, 1.0, "tokens")
    assert (
        line
        == "adaptive batch size: 32 (epoch 0), 64 (epoch 1); 20 steps, 960 tokens, learning-rate "
        "factor 1 at the end"
    )


def test_the_size_of_a_whole_run_is_told_once():
    (line,) = summary(periods([32.0, 32.0], [80.0, 90.0]), 1.0)
    assert line.startswith("adaptive batch size: 32 (epochs 0–1);")
