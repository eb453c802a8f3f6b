"""The table on least time is that of the rows, and the runs behind it do what they say."""

import math

import pytest
import torch

from benchmarks.gain import least_time, least_time_report, sweep
from benchmarks.gain.least_time_changes import BEST, simulate
from benchmarks.gain.tasks import TASKS, Stepper
from lightning_noise import AdaptiveBatchSize, LeastTime


def test_the_page_shows_the_rows():
    page = least_time_report.PAGE.read_text(encoding="utf-8")
    assert least_time_report.filled(page) == page


def test_the_best_fixed_size_and_the_best_within_the_waste():
    fixed = least_time_report.Fixed({4: 1000.0, 16: 300.0, 64: 150.0})
    assert fixed.best(rho=0) == 4
    assert fixed.best(rho=64) == 64
    assert fixed.best(rho=64, waste=0.5) == 16  # 9600 examples at 64, 4800 at 16, 4000 at 4


@pytest.mark.parametrize("name", TASKS)
def test_lanes_are_independent_runs(name):
    """The gradient of stacked weights is that of each alone."""
    task = TASKS[name]
    weights = torch.stack([task.initial(seed) for seed in (0, 1)])
    draws = [task.draw(torch.Generator().manual_seed(seed), 4) for seed in (5, 6)]
    _, together = task.gradients(weights, sweep.lanes_of(draws, rates=1))
    for lane, draw in enumerate(draws):
        alone = tuple(part.unsqueeze(0) for part in draw)
        _, gradient = task.gradients(weights[lane : lane + 1], alone)
        assert torch.allclose(together[lane], gradient[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "make"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_optimizers_are_those_of_torch(kind, make):
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    arguments = {"momentum": 0.9} if kind == "sgd" else {}
    theirs = make([weight], lr=0.1, **arguments)
    ours = Stepper(kind, weight.detach().clone())
    for step in range(5):
        gradient = torch.tensor([[0.5 * step, 1.0 - step]])
        weight.grad = gradient.clone()
        theirs.step()
        ours.step(gradient, 0.1)
    assert torch.allclose(ours.flat, weight.detach(), atol=1e-6)


def test_a_run_counts_its_time_and_finds_the_step_times():
    task = TASKS["teacher"]
    settings = AdaptiveBatchSize(LeastTime(waste=100.0), learning_rate=None)
    run = least_time.Run(task, settings, rho=64, rate=0.0005, seed=0, every=20)
    for _ in range(200):
        run.step()
    parts = [tuple(map(int, part.split("x"))) for part in run.path.split()]
    assert run.steps == sum(steps for _, steps in parts) == 200
    assert run.examples == sum(size * steps for size, steps in parts)
    assert run.time == 64 * 200 + run.examples
    assert parts[-1][0] > 16
    line = run.machine.state.times.line()
    assert line.fixed == pytest.approx(64 * 1.015, rel=0.02)
    assert line.per_example == pytest.approx(1.015, rel=0.1)


def test_the_right_size_is_reached_and_kept():
    sizes = simulate(seed=0, start=40)
    assert sizes[:3] == [40, 80, BEST] and set(sizes[2:]) == {BEST}


def test_committed_runs_all_reached_their_goal():
    variant = least_time_report.VARIANT
    times = [row.time for row in least_time.read() if row.variant == variant]
    assert times and all(map(math.isfinite, times))
