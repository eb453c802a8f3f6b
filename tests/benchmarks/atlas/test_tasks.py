"""Every task of the atlas is whole."""

import pytest
import torch

from benchmarks.atlas.report import PAPER
from benchmarks.atlas.task import EARLY, LATE
from benchmarks.atlas.tasks import TASKS
from benchmarks.atlas.tasks.quadratic import CURVATURE, SHARES, make_data, make_module
from testing.quadratic import expected_loss


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_is_whole(task):
    names = [goal.name for goal in task.all_goals]
    assert names[-1] == LATE and EARLY in names
    assert LATE in {goal.name for goal in task.goals}
    assert len(task.sizes) >= 6 and list(task.sizes) == sorted(task.sizes)
    assert task.sizes[-1] >= 64 * task.sizes[0]
    assert task.paper in {"", *PAPER}
    assert ("gauss_newton" in task.geometries) <= (task.loss_and_outputs is not None)
    assert task.study().batch_sizes == task.sizes


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_parameter_gets_a_gradient_from_one_example_batches(task):
    torch.manual_seed(0)
    module = task.make_module({"learning_rate": 0.01})
    module.log = lambda *_, **__: None
    data = task.make_data(4, 1)
    batch = next(iter(data[0] if isinstance(data, tuple) else data))
    assert len(batch[0]) == 4
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_the_order_of_the_data_follows_the_seed():
    task = TASKS["digits_mlp_sgd"]
    first, again, other = (next(iter(task.make_data(8, seed)[0]))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_quadratic_follows_its_closed_form():
    """At a fixed rate, over runs: the mean of the share of the first loss after 40 steps."""
    torch.manual_seed(0)
    size, rate, steps, runs = 64, 0.5, 40, 40
    found = []
    for seed in range(runs):
        module = make_module({"learning_rate": rate})
        shares = []
        module.log = lambda _, value, shares=shares: shares.append(float(value))
        optimizer = module.configure_optimizers()
        batches = iter(make_data(size, seed))
        for _ in range(steps + 1):
            optimizer.zero_grad()
            module.training_step(next(batches), 0).backward()
            optimizer.step()
        found.append(shares[-1])
    curvature = CURVATURE.double().numpy()
    expected = float(expected_loss(steps, size, rate, curvature)) / (curvature.sum() / 2)
    values = torch.tensor(found)
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / runs**0.5
    assert SHARES[LATE] < expected
