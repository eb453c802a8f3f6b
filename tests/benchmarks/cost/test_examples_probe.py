"""The benchmark of the examples probe: that it runs, what it hands out, and that all norms are
those of a plain loop.
"""

import csv
import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.cost import examples_probe as bench
from benchmarks.cost import norm_methods as methods
from benchmarks.harness.command import run as measured
from benchmarks.harness.rounds import compare


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make minutes of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The rows, and the file of raw results."""
    raw = tmp_path_factory.mktemp("examples_probe") / "raw.csv"
    return measured(bench.BENCHMARK, replace(bench.QUICK, rounds=2, rare_rounds=2), raw), raw


def timed(rows):
    return [row for row in rows if row.part == "step"]


@pytest.mark.slow
def test_every_variant_of_every_model_has_numbers_or_a_reason(run):
    rows = timed(run[0])
    for case in bench.TINY.values():
        here = [row for row in rows if row.model == case.name]
        assert {row.variant for row in here} == {variant.name for variant in methods.VARIANTS}
        for row in here:
            if row.note:
                assert row.note.startswith("not run: ") and math.isnan(row.seconds)
            else:
                assert row.seconds > 0 and row.cpu_seconds > 0
        assert compare(here, methods.PLAIN, methods.PLAIN).cpu_ratio == (1.0, 1.0, 1.0)
    lines = bench.table(run[0]).splitlines()[2:]
    names = [tuple(line.strip("| ").split(" | ")[:2]) for line in lines]
    assert names == [(c.name, v.name) for c in bench.TINY.values() for v in methods.VARIANTS]


@pytest.mark.slow
def test_what_ships_with_the_package_runs_everywhere(run):
    missing = {
        (row.variant, row.model)
        for row in run[0]
        if row.note and row.variant.split()[0] not in ("opacus", "backpack")
    }
    assert missing == {("LayerNorm only", bench.TINY[key].name) for key in ("mlp", "resnet")}


@pytest.mark.slow
def test_the_raw_results_hold_every_variant_once_a_round(run):
    rows, raw = run
    lines = [
        (line["model"], line["variant"], int(line["round"]))
        for line in csv.DictReader(raw.read_text().splitlines())
        if not line["note"] and line["part"] == "step"
    ]
    there = {(row.model, row.variant) for row in timed(rows) if not row.note}
    assert sorted(lines) == sorted((*one, number) for one in there for number in range(2))


@pytest.mark.slow
def test_a_file_that_is_complete_is_reported_whole_and_not_measured_again(run, tmp_path):
    rows, raw = run
    path = tmp_path / "raw.csv"
    path.write_text(raw.read_text())
    path.with_name("machines.csv").write_text(raw.with_name("machines.csv").read_text())
    again = measured(bench.BENCHMARK, replace(bench.QUICK, rounds=2, rare_rounds=2), path)
    assert list(map(str, again)) == list(map(str, rows))  # NaN is not equal to itself
    assert path.read_text() == raw.read_text()


# ---- norms --------------------------------------------------------------------------------------


def mean_square_by_loop(training, kind=nn.Module) -> float:
    """Mean |g_i|² over the examples, from a backward pass for each, over the parameters of one kind
    of layer.
    """
    parameters = [
        p
        for m in training.module.modules()
        if isinstance(m, kind)
        for p in m.parameters(recurse=False)
    ]
    squares = []
    for i in range(len(training.inputs)):
        one = methods.Training(
            training.module, training.inputs[i : i + 1], training.targets[i : i + 1]
        )
        squares.append(
            sum(g.double().square().sum() for g in torch.autograd.grad(one.loss(), parameters))
        )
    return float(sum(squares)) / len(squares)


EXACT = (
    "examples, exact",
    "examples, Gram only",
    "opacus ghost norms",
    "backpack BatchL2Grad",
    "vmap",
    "LayerNorm only",
)


@pytest.mark.parametrize("key", ["d256", "mlp", "resnet"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_norms_are_those_of_a_loop(name, key):
    training = methods.Training.of(bench.TINY[key])
    variant = next(v for v in (*methods.VARIANTS, *methods.SCALING_VARIANTS) if v.name == name)
    with bench.quiet():
        method = methods.make(variant, training)
    if isinstance(method, str):
        pytest.skip(method)
    truth = mean_square_by_loop(training, nn.LayerNorm if name == "LayerNorm only" else nn.Module)
    assert method.mean_square() == pytest.approx(truth, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["d256", "resnet"])
def test_the_sketch_is_right_on_average(key):
    training = methods.Training.of(bench.TINY[key])
    draws = []
    for seed in range(60):
        method = methods.Ours(training, seed=seed)
        with method.watching():
            method.step()
        draws.append(method.mean_square())
    mean, error = statistics.mean(draws), statistics.stdev(draws) / len(draws) ** 0.5
    assert abs(mean - mean_square_by_loop(training)) < 4 * error


def test_of_a_visit_of_every_tenth_the_first_timed_step_alone_is_measured(monkeypatch):
    method = methods.make(
        methods.Variant("", methods.EveryTenth), methods.Training.of(bench.TINY["mlp"])
    )
    measured, flush = [], method.monitor.flush
    monkeypatch.setattr(method.monitor, "flush", lambda: measured.append(flush()))
    for _ in range(2):
        method.visit()
    assert measured == [0, 1, 0] * 2  # the untimed step comes first
    assert sum(method.timed) == pytest.approx(1)


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(methods.importlib, "import_module", missing)
    reason = methods.make(
        methods.Variant("", methods.BackPack), methods.Training.of(bench.TINY["mlp"])
    )
    assert reason == "not run: backpack is not installed"


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
    wanted = {"rounds": 0, "scaling_rounds": 0, "memory_runs": 1}
    options = replace(bench.QUICK, models=("mlp",), variants=("plain",), **wanted)
    (row,) = measured(bench.BENCHMARK, options)
    assert (row.part, row.variant) == ("memory", "plain") and row.mebibytes > 100
    assert bench.added_memory([row], "plain") == "0"
