"""The benchmark of hooks and watched calls: that it runs, and what it counts."""

import csv
import importlib.util
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("calls_cost")


@pytest.fixture(scope="module")
def bytes_of() -> ModuleType:
    return load("calls_memory")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Threads that wait for each other on a busy machine make minutes of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Rows of times, and the file of raw times."""
    raw = tmp_path_factory.mktemp("calls_cost") / "raw.csv"
    return bench.main(["--tiny", "--rounds", "2", "--output", str(raw)]), raw


@pytest.mark.slow
def test_every_variant_of_every_case_has_a_row(bench: ModuleType, run: Any) -> None:
    rows, raw = run
    wanted = [(case.name, variant) for case in bench.TINY.values() for variant in bench.VARIANTS]
    assert sorted((row.case, row.variant) for row in rows) == sorted(wanted)
    lines = list(csv.DictReader(raw.read_text().splitlines()))
    assert len(lines) == 2 * len(wanted)
    for row in rows:
        own = [
            float(line["seconds"])
            for line in lines
            if (line["case"], line["variant"]) == (row.case, row.variant)
        ]
        assert statistics.median(own) == pytest.approx(row.seconds, abs=1e-6)
        assert row.variant != bench.PLAIN or row.cpu_ratio == row.ratio == (1.0, 1.0, 1.0)


@pytest.mark.slow
def test_no_case_keeps_a_batch_beyond_autograd(bytes_of: ModuleType, tmp_path: Path) -> None:
    memory = bytes_of.main(["--tiny", "--output", str(tmp_path / "raw.csv")])
    assert {row.checkpointed for row in memory} == {True, False}
    for row in memory:
        assert row.held_measured - row.held < row.batch


def test_layers_by_hand_compute_the_same_and_no_rule_knows_them(bench: ModuleType) -> None:
    hooked = bench.Training(bench.TINY["transformer"], None)
    own = bench.Training(bench.TINY["by-hand"], None)
    assert torch.equal(hooked.forward(), own.forward())
    known = (nn.Linear, nn.LayerNorm, nn.Embedding)
    assert not any(isinstance(module, known) for module in own.module.modules())


def test_one_step_in_ten_is_measured(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    training = bench.Training(bench.TINY["lstm"], 10)
    training.settle(10)
    measured: list[int] = []
    for _ in range(1 + bench.TIMED_STEPS):  # as in a visit
        training.step()
        measured.append(training.monitor.flush())
    assert sum(measured[1:]) == 1


def test_bytes_are_counted_until_they_are_freed(bytes_of: ModuleType) -> None:
    given = torch.zeros(10)
    with bytes_of.Storages([given]) as storages:
        view = given.view(2, 5)
        kept = torch.zeros(100)
        (torch.zeros(50) + 1).sum()
        assert storages.held == kept.numel() * 4
    assert storages.peak == 4 * (100 + 50 + 50)
    assert view.shape == (2, 5)
