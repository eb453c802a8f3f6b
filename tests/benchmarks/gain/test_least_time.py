"""The runs behind the tables on least time do what they say, and the tables what their rows say."""

import math

import pytest
import torch

from benchmarks.gain import least_time, sweep
from benchmarks.gain.driven import Run
from benchmarks.gain.guard_rate import false_alarms
from benchmarks.gain.least_time_changes import BEST, simulate
from benchmarks.gain.tasks import TASKS, task_of
from benchmarks.gain.training import Lanes, Smoothed, Stepper, stacked
from benchmarks.harness.command import run as measured
from benchmarks.harness.rows import committed
from lightning_noise import AdaptiveBatchSize, LeastTime


def test_the_best_fixed_size_and_the_best_within_the_waste():
    fixed = sweep.Fixed({}, {4: 1000.0, 16: 300.0, 64: 150.0})
    assert fixed.best(rho=0) == 4
    assert fixed.best(rho=64) == 64
    assert fixed.best(rho=64, waste=0.5) == 16  # 9600 examples at 64, 4800 at 16, 4000 at 4


@pytest.mark.parametrize("name", TASKS)
def test_lanes_are_independent_runs(name):
    """The gradient of stacked weights is that of each alone."""
    task = TASKS[name]
    weights = torch.stack([task.initial(seed) for seed in (0, 1)])
    draws = [task.draw(torch.Generator().manual_seed(seed), 4) for seed in (5, 6)]
    _, together = task.gradients(weights, stacked(draws, rates=1))
    for lane, draw in enumerate(draws):
        alone = tuple(part.unsqueeze(0) for part in draw)
        _, gradient = task.gradients(weights[lane : lane + 1], alone)
        assert torch.allclose(together[lane], gradient[0], rtol=1e-4, atol=1e-6)


def test_every_rate_sees_the_batches_of_all_seeds():
    first, second = (torch.arange(3),), (torch.arange(3, 6),)
    (batch,) = stacked([first, second], rates=2)
    assert batch.tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]
    task = TASKS["teacher"]
    both = Lanes(task, [0.01, 0.02], [0, 1])
    alone = Lanes(task, [0.02], [1])
    for _ in range(3):
        found, wanted = both.step(4), alone.step(4)
    assert found[3].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_losses_of_lanes_are_smoothed_as_single_ones():
    lanes, single = Smoothed(100), Smoothed(100)
    for loss in (3.0, 1.0, 2.0):
        together, alone = lanes.update(torch.tensor([loss, 0.0]), 16), single.update(loss, 16)
    assert together.tolist() == pytest.approx([alone, 0.0])


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
    run = Run(task, settings, rho=64, rate=0.0005, seed=0)
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
    rows = committed(least_time.BENCHMARK)
    times = [row.time for row in rows if row.variant == least_time.SHOWN]
    assert len(times) == 328 and all(map(math.isfinite, times))


def test_the_search_goes_on_until_the_best_rate_has_worse_neighbours(monkeypatch):
    """Steps by a formula that is best at a rate of 0.32, far above where the search begins."""

    def steps_to_goal(task, size, rates, seeds, *, all_lanes=False):
        return torch.tensor([[1000 * (rate / 0.32 + 0.32 / rate)] * len(seeds) for rate in rates])

    monkeypatch.setattr(sweep, "steps_to_goal", steps_to_goal)
    rows = sweep.tune(TASKS["teacher"], 4, 0.02)
    by_rate = sweep.mean_steps(rows, "rate")
    rates = sorted(by_rate)
    place = rates.index(min(by_rate, key=by_rate.__getitem__))
    assert rates[place] == pytest.approx(0.32)
    assert 0 < place < len(rates) - 1


def test_a_size_that_is_in_the_file_is_not_run_again(monkeypatch):
    tried = []

    def steps_to_goal(task, size, rates, seeds, *, all_lanes=False):
        tried.append(size)
        return torch.tensor([[100.0 + abs(place - 3)] * len(seeds) for place in range(len(rates))])

    monkeypatch.setattr(sweep, "steps_to_goal", steps_to_goal)
    options = sweep.Options(tasks=("teacher",), tiny=True)
    first = next(iter(sweep.measure(options, {})))
    assert [row.kind for row in first] == ["tuning"] * 21 + ["fixed"] * 5
    assert {row.size for row in first} == {4}
    tried.clear()
    (second,) = sweep.measure(options, {("teacher", 4): first})
    assert set(tried) == {8} and {row.size for row in second} == {8}
    assert second[3 * 3].rate == pytest.approx(first[-1].rate * sweep.GRID)


def test_a_table_has_a_dash_where_nothing_was_run():
    fixed = sweep.fixed_sizes("teacher")
    row = least_time.Row("teacher", "middle", "20", 64, fixed.rates[4], 0, 0.0, 1, 4, 0, "4x1")
    best = fixed.time(128, 64)
    rows = [row._replace(time=2 * best), row._replace(time=4 * best, seed=1)]
    lines = least_time.table(rows).splitlines()
    assert lines[2] == "| teacher | 64 | 128 | 10.94 | 3.00 (3.00), 2 | – | – |"
    assert lines[3] == "| geometric mean |  |  | 10.94 | 3.00 (3.00), 2 | – | – |"


def test_a_diverged_run_is_no_healthy_one():
    assert false_alarms([1.0] * 200 + [10.0] * 50) == 1
    with pytest.raises(ArithmeticError, match="diverged"):
        false_alarms([1.0, math.inf])


def test_other_rows_than_those_of_the_file_are_measured_alone(tmp_path):
    options = least_time.BENCHMARK.quick
    (row,) = measured(least_time.BENCHMARK, options, tmp_path / "least_time.csv")
    assert row[:4] == ("teacher", "middle", "20", 64) and row.time == 64 * row.steps + row.examples
    assert measured(least_time.BENCHMARK, options, tmp_path / "least_time.csv") == [row]
    assert list(least_time.measure(options, {row[:6]: [row]})) == []


def test_a_tiny_task_is_the_task_with_an_easy_goal():
    whole, tiny = TASKS["teacher"], task_of("teacher", tiny=True)
    assert task_of("teacher") is whole
    assert (tiny.loss, tiny.rate, tiny.goal) == (whole.loss, whole.rate, 4 * whole.goal)
