"""What an advice costs, from the runs that are there."""

import pytest

from lightning_noise.core.critical import CriticalBatchSize, NoFitError
from lightning_noise.report.costs import Cost, cost, cost_at, distinct, fit_warnings, refusal
from lightning_noise.report.runs import Run


def run(size, seconds=None, phase="search", steps=10.0):
    return Run("g", size, phase, "reached", steps, seconds=seconds)


def test_a_cost_reads_as_runs_and_a_time():
    assert str(Cost(1, None)) == "about 1 run"
    assert str(Cost(48, 1200.0)) == "about 48 runs, 20 min of training"


def test_runs_without_a_time_count_like_the_others():
    assert cost([run(8, 2.0), run(8, 4.0), run(8)]) == Cost(3, 9.0)
    assert cost([run(8)]) == Cost(1, None)


def test_a_new_size_costs_what_the_nearest_one_did():
    runs = [run(8, 1.0), run(64, 5.0), run(64, 7.0, "rerun")]
    assert cost_at(runs, [4]) == Cost(1, 1.0)
    assert cost_at(runs, [32, 128]) == Cost(4, 24.0)
    assert cost_at(runs, [8, 64]) == Cost(3, 13.0)


def study_of(sizes, steps):
    """A trial and a rerun of 30 s at each batch size."""
    runs = []
    for size in sizes:
        for phase in ("search", "rerun"):
            runs.append(run(size, 30.0, phase, steps(size)))
    return runs


def test_every_warning_of_a_fit_has_its_cost():
    sizes = [8, 16, 32, 64, 128, 256]
    steps = {size: 100 * (1 + 300 / size) for size in sizes}
    fit = CriticalBatchSize.fit(sizes, list(steps.values()))
    (warning,) = fit_warnings(fit, study_of(sizes, steps.get))
    assert warning.endswith("Add the sizes 512, 1024, 2048: about 6 runs, 3 min of training")


def test_a_poor_fit_costs_the_runs_at_the_size_that_it_names():
    sizes = [8, 16, 32, 64, 128, 256, 512]
    steps = {size: 100 * (1 + 60 / size) for size in sizes}
    steps[64] *= 2
    fit = CriticalBatchSize.fit(sizes, list(steps.values()))
    (warning,) = fit_warnings(fit, study_of(sizes, steps.get))
    assert "Batch size 64 lies farthest" in warning
    assert warning.endswith("and run more seeds: about 2 runs, 60 s of training")


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        (lambda size: 1e4 / size, "Add the sizes 256, 1024: about 4 runs, 2 min of training"),
        (lambda size: 10.0, "Add the sizes 1, 2: about 4 runs, 2 min of training"),
    ],
)
def test_a_refused_fit_has_its_cost(steps, end):
    sizes = [8, 16, 32, 64]
    with pytest.raises(NoFitError) as refused:
        CriticalBatchSize.fit(sizes, [steps(size) for size in sizes])
    assert refusal(refused.value, study_of(sizes, steps)).endswith(end)


def test_a_table_of_mere_steps_has_no_cost():
    with pytest.raises(NoFitError) as refused:
        CriticalBatchSize.fit([8, 16], [10, 5])
    assert refusal(refused.value, [run(8, phase="rerun")]) == str(refused.value)


def test_a_run_that_is_read_for_two_goals_counts_once():
    one = {"goal": "a", "global_size": 8, "phase": "search", "trial": 0, "seed": 0, "seconds": 2.5}
    assert distinct([one, {**one, "goal": "b"}, {**one, "trial": 1}]) == [one, {**one, "trial": 1}]
