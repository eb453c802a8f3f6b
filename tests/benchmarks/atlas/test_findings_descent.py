"""The noise scale at a loss: the estimator on a quadratic with known noise, and its bins."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.atlas.findings_descent import (
    Setting,
    at_level,
    b_simple,
    bin_of,
    descend,
    level_of,
    log_b_simple,
    losses_of,
    moments_of,
)
from benchmarks.atlas.findings_statistics import jackknife
from benchmarks.atlas.findings_tasks import digits_mlp, flat_digits
from benchmarks.gain.tasks import Task

DIMENSIONS = 10
HELD = (torch.zeros(1, DIMENSIONS),)


def draw(generator, examples):
    return (torch.randn(examples, DIMENSIONS, generator=generator),)


def loss(p, batch):
    """½|w − x|² without its constant, so that the gradient is w − x and the held loss ½|w|²."""
    point = p[0].unsqueeze(1)
    return (point.square() / 2 - point * batch[0]).sum(-1).mean(-1)


class FromTwo(Task):
    """Every run starts at (2, 2, …), where the loss is 20."""

    def initial(self, seed):
        return torch.full((DIMENSIONS,), 2.0)


QUADRATIC = FromTwo(
    name="quadratic", optimizer="sgd", shapes=((DIMENSIONS,),), draw=draw, loss=loss, goal=0.1
)


def setting(**changes):
    base = Setting(
        task=QUADRATIC,
        held=HELD,
        optimizer="plain",
        learning_rate=0.01,
        global_size=64,
        lowest=0.25,
        most_steps=2000,
    )
    return replace(base, **changes)


def test_moments_are_those_of_known_noise():
    """At w = (2, 2, …): |G|² = 40 and tr(Σ) = 10, for 400 lanes alike."""
    draws = [torch.Generator().manual_seed(seed) for seed in range(400)]
    found = moments_of(QUADRATIC, torch.full((400, DIMENSIONS), 2.0), draws, 16, 4)
    signal = torch.tensor([one.signal for one in found])
    noise = torch.tensor([one.noise for one in found])
    for values, truth in ((signal, 40.0), (noise, 10.0)):
        assert abs(values.mean() - truth) < 4 * values.std() / 20


def test_b_simple_along_a_run_is_trace_over_squared_gradient():
    """tr(Σ)/|G|² = 10/(2·loss) on this quadratic, in every bin, within the interval. With 32
    examples a check, the squared norm of their mean gradient would be a third too high at loss 0.5.
    """
    rows = descend(setting(groups=8, group_size=4), range(16))
    for level in (8.0, 2.0, 0.5):
        mine = at_level(rows, level)
        checks = sum(row.checks for row in mine)
        mean_loss = sum(row.loss * row.checks for row in mine) / checks
        found = b_simple(mine)
        assert found.low < DIMENSIONS / (2 * mean_loss) < found.high
        assert found.high < 1.5 * found.low


def test_the_mean_loss_of_a_bin_lies_in_it():
    for row in descend(setting(), range(2)):
        assert bin_of(row.loss) == bin_of(row.level)


def test_a_run_ends_below_its_lowest_level():
    rows = descend(setting(lowest=2.0), range(2))
    assert min(row.level for row in rows) == 2.0


def test_a_run_that_diverges_has_rows_up_to_there():
    rows = descend(setting(learning_rate=3.0, most_steps=400), range(2))
    assert rows and all(math.isfinite(row.loss) for row in rows)
    assert max(row.level for row in rows) > 20.0


def test_the_last_check_of_a_run_is_its_last_step():
    rows = descend(setting(most_steps=0), range(2))
    assert [(row.checks, row.first_step, row.level) for row in rows] == 2 * [(1, 0, level_of(-9))]


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Made-up seeds with |G|² = 1 and tr(Σ) = 100, of which the first scatters by a third.

    The limits are four standard errors of 400 draws.
    """
    generator = torch.Generator().manual_seed(0)
    template = descend(setting(most_steps=0), range(1))[0]
    held = 0
    for _ in range(400):
        scatter = torch.randn(8, generator=generator).tolist()
        rows = []
        for seed, one in enumerate(scatter):
            rows.append(template._replace(seed=seed, grad_sq=1 + one / 3, trace=100.0))
        found = b_simple(rows)
        held += found.low < 100 < found.high
    assert abs(held / 400 - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


def test_a_squared_gradient_that_is_not_positive_has_no_noise_scale():
    row = descend(setting(most_steps=0), range(1))[0]._replace(grad_sq=-1.0)
    assert math.isnan(log_b_simple([row], {0}))
    assert math.isnan(jackknife(lambda kept: log_b_simple([row], kept), [0]).value)


def test_the_loss_of_all_digits_at_zero_weights_is_ln_10():
    task = digits_mlp(16)
    losses = losses_of(task, torch.zeros(3, task.numel), flat_digits())
    assert losses.tolist() == pytest.approx([math.log(10)] * 3)
