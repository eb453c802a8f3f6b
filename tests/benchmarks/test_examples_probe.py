"""The benchmark of the examples probe: that it runs, what it hands out, and that all norms are
those of a plain loop.
"""

import csv
import importlib.util
import math
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "examples_probe.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_probe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make minutes of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(bench, tmp_path_factory):
    """The rows, and the file of raw results."""
    raw = tmp_path_factory.mktemp("examples_probe") / "raw.csv"
    return bench.main(
        [
            "--tiny",
            "--rounds",
            "2",
            "--scaling-rounds",
            "1",
            "--memory-runs",
            "0",
            "--csv",
            str(raw),
        ]
    ), raw


@pytest.mark.slow
def test_every_variant_of_every_model_has_numbers_or_a_reason(bench, run):
    rows, _ = run
    steps = [row for row in rows if row.part == "step"]
    names = [variant.name for variant in bench.VARIANTS]
    assert [(row.model, row.variant) for row in steps] == [
        (case.name, name) for case in bench.TINY.values() for name in names
    ]
    for row in rows:
        if row.note:
            assert row.note.startswith("not run: ") and row.rounds == 0 and math.isnan(row.seconds)
        else:
            assert row.ratio.low <= row.ratio.median <= row.ratio.high
    assert all(row.ratio == (1.0, 1.0, 1.0) for row in rows if row.variant == bench.PLAIN)


@pytest.mark.slow
def test_what_ships_with_the_package_runs_everywhere(bench, run):
    rows, _ = run
    missing = {
        (row.variant, row.model)
        for row in rows
        if row.note and row.variant.split()[0] not in ("opacus", "backpack")
    }
    assert missing == {("LayerNorm only", bench.TINY[key].name) for key in ("mlp", "resnet")}


@pytest.mark.slow
def test_the_raw_results_hold_every_variant_once_a_round(bench, run):
    rows, raw = run
    lines = [
        line
        for line in csv.DictReader(raw.read_text().splitlines())
        if not line["note"] and line["part"] == "step"
    ]
    timed = [row for row in rows if row.part == "step" and not row.note]
    assert sorted((line["model"], line["variant"], int(line["round"])) for line in lines) == sorted(
        (row.model, row.variant, number) for row in timed for number in range(2)
    )
    for row in timed:
        seconds = [
            float(line["seconds"])
            for line in lines
            if (line["model"], line["variant"]) == (row.model, row.variant)
        ]
        assert statistics.median(seconds) == pytest.approx(row.seconds, rel=1e-4)


@pytest.mark.slow
def test_a_file_that_is_added_to_is_reported_whole(bench, run, tmp_path):
    rows, raw = run
    path = tmp_path / "raw.csv"
    path.write_text(raw.read_text())
    none = [
        "--tiny",
        "--rounds",
        "0",
        "--scaling-rounds",
        "0",
        "--memory-runs",
        "0",
        "--csv",
        str(path),
        "--append",
    ]
    again = bench.main(none)
    assert [(row.part, row.model, row.variant, row.rounds) for row in again] == [
        row[:4] for row in rows
    ]
    assert path.read_text() == raw.read_text()


# ---- norms --------------------------------------------------------------------------------------


def mean_square_by_loop(bench, training, kind=nn.Module) -> float:
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
        one = bench.Training(
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
def test_exact_norms_are_those_of_a_loop(bench, name, key):
    training = bench.Training.of(bench.TINY[key])
    variant = next(v for v in (*bench.VARIANTS, *bench.SCALING_VARIANTS) if v.name == name)
    with bench.quiet():
        method = bench.make(variant, training)
    if isinstance(method, str):
        pytest.skip(method)
    truth = mean_square_by_loop(
        bench, training, nn.LayerNorm if name == "LayerNorm only" else nn.Module
    )
    assert method.mean_square() == pytest.approx(truth, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["d256", "resnet"])
def test_the_sketch_is_right_on_average(bench, key):
    training = bench.Training.of(bench.TINY[key])
    draws = []
    for seed in range(60):
        method = bench.Ours(training, seed=seed)
        with method.watching():
            method.step()
        draws.append(method.mean_square())
    mean, error = statistics.mean(draws), statistics.stdev(draws) / len(draws) ** 0.5
    assert abs(mean - mean_square_by_loop(bench, training)) < 4 * error


def test_of_a_visit_of_every_tenth_the_first_timed_step_alone_is_measured(bench, monkeypatch):
    method = bench.make(bench.Variant("", bench.EveryTenth), bench.Training.of(bench.TINY["mlp"]))
    measured, flush = [], method.monitor.flush
    monkeypatch.setattr(method.monitor, "flush", lambda: measured.append(flush()))
    bench.visit(method, repeats=2)
    assert measured == [0, 1, 0] * 2  # the untimed step comes first
    assert sum(method.timed) == pytest.approx(1)


def test_what_is_not_installed_is_named(bench, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(bench.importlib, "import_module", missing)
    reason = bench.make(bench.Variant("", bench.BackPack), bench.Training.of(bench.TINY["mlp"]))
    assert reason == "not run: backpack is not installed"


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(bench):
    row = bench.main(
        [
            "--tiny",
            "--rounds",
            "0",
            "--scaling-rounds",
            "0",
            "--models",
            "mlp",
            "--variants",
            "plain",
            "--threads=1",
        ]
    )
    assert [(r.variant, r.memory, r.added_mebibytes) for r in row] == [("plain", 1.0, 0.0)]
