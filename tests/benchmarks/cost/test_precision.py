"""The benchmark of precision and cost: steps against a known answer, interpolation, and sums."""

import functools
import math
import statistics

import pytest
import torch
from torch import nn

from benchmarks.cost import precision
from benchmarks.cost.precision_loop import VARIANTS, Measured
from benchmarks.cost.precision_report import Way, overhead, overhead_table, relative_overhead
from benchmarks.cost.precision_rows import (
    ACCUMULATED,
    AMONG_OTHERS,
    FIRST,
    GOAL,
    LATER,
    MEASURED,
    PLAIN,
    Row,
    added,
    half_width_after,
    needed,
    steps_until,
)
from benchmarks.cost.precision_tasks import SIZES, Batch, Task, prepared
from benchmarks.harness.command import run
from lightning_noise.core.student_t import student_t_quantile

DIMENSIONS, EXAMPLES, SEEDS = 20, 24, 24


# ---- steps --------------------------------------------------------------------------------------


def mean_output(module, batch):
    """Its gradient by an example is the example."""
    return module(batch.inputs).mean()


def draw_gaussian(generator, examples):
    """N(µ, 1) with |µ| = 1, so that B_simple is the number of dimensions."""
    inputs = torch.randn(examples, DIMENSIONS, generator=generator)
    return Batch(inputs + DIMENSIONS**-0.5, torch.zeros(examples))


GAUSSIAN = Task(
    name="Gaussian",
    build=functools.partial(nn.Linear, DIMENSIONS, 1, bias=False),
    draw=draw_gaussian,
    examples=EXAMPLES,
    trained=0,
    loss=mean_output,
)


def known_half_width(steps, groups):
    """Fieller's interval with the variances that Gaussian gradients have."""
    n, sum_sq = EXAMPLES, DIMENSIONS  # examples per step, tr(Σ²)
    var_trace = 2 * sum_sq / (groups - 1)
    var_square = 4 / n + 2 * sum_sq * groups / ((groups - 1) * n**2)
    covariance = -var_trace / n
    t2 = student_t_quantile(0.975, steps - 1) ** 2 / steps
    a = DIMENSIONS**2 - t2 * var_trace
    b = DIMENSIONS - t2 * covariance
    c = 1 - t2 * var_square
    if b * b - a * c <= 0 or c <= 0:
        return math.inf
    root = math.sqrt(b * b - a * c)
    return (a / (b - root) - a / (b + root)) / 2 / DIMENSIONS


@pytest.mark.parametrize("variant", [VARIANTS[0], *VARIANTS[-3:]], ids=lambda v: v.name)
def test_the_steps_found_are_those_that_gaussian_gradients_need(variant):
    groups = variant.parts if variant.parts > 1 else EXAMPLES
    known = next(n for n in range(3, 10_000) if known_half_width(n, groups) <= GOAL)
    rows = []
    for seed in range(SEEDS):
        rows += precision.intervals(GAUSSIAN, variant, seed, most_steps=512)
    found = [math.log(r.steps) for r in needed(rows, "Gaussian", variant.name).values()]
    error = statistics.stdev(found) / len(found) ** 0.5
    assert len(found) == SEEDS and error < 0.1
    assert abs(statistics.fmean(found) - math.log(known)) < 4 * error


def test_all_variants_see_the_same_batches_at_the_same_weights():
    task = SIZES["tiny"]["mlp"]
    before = [p.clone() for p in prepared(task).parameters()]
    found = set()
    for variant in (VARIANTS[0], VARIANTS[3]):  # exact norms both, where there is one position
        rows = precision.intervals(task, variant, 3, most_steps=16)
        found.add(tuple((row.steps, f"{row.low:.5g}") for row in rows))
    assert len(found) == 1
    after = list(prepared(task).parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_goal_is_interpolated_in_logarithms():
    exact = [(n, 1.6 / n**0.5) for n in (16, 32, 128, 512)]
    reached = steps_until(0.2, exact)
    assert reached.steps == pytest.approx(64, rel=1e-12) and not reached.extrapolated


@pytest.mark.parametrize(
    ("points", "steps", "extrapolated"),
    [
        ([(16, math.inf), (32, 0.4)], 128, True),
        ([(16, math.inf), (32, 0.15)], 32 * 0.75**2, False),  # where 1/√steps says it was reached
        ([(30, math.inf), (32, 0.15)], 30, False),  # but not before the last point without it
        ([(8, 0.1)], 2, False),
    ],
)
def test_beyond_the_points_the_width_falls_as_one_over_the_root(points, steps, extrapolated):
    assert steps_until(0.2, points) == (pytest.approx(steps, rel=1e-12), extrapolated)


def test_what_was_never_resolved_has_no_number():
    assert math.isnan(steps_until(0.2, [(8, math.inf), (16, math.inf)]).steps)
    assert half_width_after(199, [(8, math.inf)]) == math.inf


def test_the_width_of_a_window_comes_from_the_nearest_point():
    assert half_width_after(200, [(50, 0.4), (128, 0.25)]) == pytest.approx(0.2, rel=1e-12)


# ---- seconds ------------------------------------------------------------------------------------

TIMES = {
    PLAIN: 10e-3,
    ACCUMULATED: 13e-3,
    MEASURED: 15e-3,
    AMONG_OTHERS: 15.5e-3,
    FIRST: 0.2e-3,
    LATER: 0.05e-3,
}


def timed(variant, times, number=0):
    """The rows of a visit."""
    made = []
    for kind, seconds in times.items():
        row = Row("seconds", "m", variant, number, kind=kind)
        made.append(row._replace(seconds=seconds, cpu_seconds=seconds))
    return made


def reached_at(variant, steps, number=0):
    """The rows of a series that reaches the goal at ``steps``."""
    return [Row("steps", "m", variant, number, steps, 100.0, 80.0, 120.0)]


def test_overhead_is_measured_steps_times_what_a_cycle_adds():
    name = "micro_batches, 4"
    rows = [*timed(name, TIMES), *reached_at(name, 50)]
    found = {every: overhead(rows, "m", Way("", name), every).median for every in (1, 3, 10)}
    assert found[1] == pytest.approx(50 * 2e-3)
    assert found[3] == pytest.approx(50 * (2.5e-3 + 0.2e-3 + 0.05e-3))
    assert found[10] == pytest.approx(50 * (2.5e-3 + 0.2e-3 + 8 * 0.05e-3))


def test_batches_divided_for_the_measurement_cost_in_every_step():
    name = "micro_batches, 4"
    rows = [*timed(name, TIMES), *reached_at(name, 50)]
    split = Way("", name, divided=True)
    assert overhead(rows, "m", split, 1).median == pytest.approx(50 * 5e-3)
    assert overhead(rows, "m", split, 3).median == pytest.approx(50 * (2.75e-3 + 3 * 3e-3))


def test_overhead_is_compared_within_series_and_rounds():
    one, two = VARIANTS[0].name, VARIANTS[1].name
    faster = {kind: time for kind, time in TIMES.items() if kind != ACCUMULATED}
    slower = faster | {MEASURED: 20e-3}
    rows = [*reached_at(one, 60, 0), *reached_at(one, 90, 1)]
    rows += [*reached_at(two, 40, 0), *reached_at(two, 60, 1)]
    for number in range(2):
        rows += [*timed(one, faster, number), *timed(two, slower, number)]
    found = relative_overhead(rows, "m", Way(two, two))
    assert found.median == pytest.approx(2 / 3 * 10 / 5)
    assert f"| m | {two} |" in overhead_table(rows)


@pytest.mark.slow
def test_a_visit_times_every_kind_of_step():
    variant = VARIANTS[-1]
    task = SIZES["tiny"]["mlp"]
    rows = precision.visit(task, variant, number=0, place=0, repeats=2)
    assert {row.kind for row in rows} == set(TIMES)
    (times,) = added(rows, task.name, variant.name, "cpu_seconds").values()
    assert 0 < times.later < times.plain  # calls alone, without the passes


def test_a_step_that_is_not_measured_has_no_hooks():
    loop = Measured(SIZES["tiny"]["mlp"], VARIANTS[0], every=3)
    generator = torch.Generator().manual_seed(0)
    hooks = []
    loop.module.register_forward_pre_hook(lambda *_: hooks.append(hooks_in(loop.module)))
    with loop.watching():
        for _ in range(6):
            loop.step(SIZES["tiny"]["mlp"].batch(generator))
    assert [bool(number) for number in hooks] == [True, False, False] * 2


def hooks_in(module):
    """On layers."""
    return sum(len(one._forward_hooks) for one in module.modules())


@pytest.mark.slow
def test_parts_are_measured_apart_and_a_run_goes_on(tmp_path):
    raw = tmp_path / "raw.csv"
    options = {"models": ("mlp",), "most_steps": 11, "repeats": 1, "size": "tiny"}
    one = precision.Options(parts=("steps",), seeds=1, **options)
    run(precision.BENCHMARK, one, raw)
    both = precision.Options(seeds=2, rounds=1, **options)
    rows = run(precision.BENCHMARK, both, raw)
    assert [(r.round, r.steps) for r in rows if r.variant == VARIANTS[0].name and r.steps] == [
        (0, 8),
        (0, 11),
        (1, 8),
        (1, 11),
    ]
    assert {row.round for row in rows if row.part == "seconds"} == {0}
    figure = tmp_path / "precision.png"
    precision.BENCHMARK.draw(rows, figure)
    assert figure.stat().st_size > 10_000
