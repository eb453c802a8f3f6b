"""The benchmarks of hooks and watched calls: that they run, and what they count."""

import pytest
import torch
from torch import nn

from benchmarks.cost import calls_cost, calls_memory
from benchmarks.cost.norm_methods import Training
from benchmarks.harness.command import run
from testing.quick_form import fills_the_tables
from testing.storages import Storages

TINY = calls_cost.SIZES["tiny"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make minutes of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_every_variant_of_every_case_is_visited_once_a_round(tmp_path):
    raw = tmp_path / "raw.csv"
    quick = run(calls_cost.BENCHMARK, calls_cost.BENCHMARK.quick, raw)
    fills_the_tables(calls_cost.BENCHMARK, quick)
    rows = run(calls_cost.BENCHMARK, calls_cost.Options(rounds=2, size="tiny"), raw)
    names = [case.name for case in TINY.values()]
    wanted = [(n, case, variant) for n in range(2) for case in names for variant in VARIANTS]
    assert sorted((row.round, row.case, row.variant) for row in rows) == sorted(wanted)
    assert len(raw.read_text().splitlines()) == 1 + len(wanted)
    lines = [line.split(" | ") for line in calls_cost.table(rows).splitlines()[2:]]
    assert [line[0].removeprefix("| ") for line in lines] == [n for n in names for _ in VARIANTS]
    plain = [line[3] for line in lines if line[1] == calls_cost.PLAIN]
    assert plain == ["1.000 [1.000, 1.000]"] * len(names)


VARIANTS = tuple(calls_cost.VARIANTS)


@pytest.mark.slow
def test_no_case_keeps_a_batch_beyond_autograd():
    memory = run(calls_memory.BENCHMARK, calls_memory.BENCHMARK.quick)
    fills_the_tables(calls_memory.BENCHMARK, memory)
    assert [row.checkpointed for row in memory] == [False, True] * len(TINY)
    for row in memory:
        assert row.held_measured - row.held < row.batch


def test_every_case_has_its_blocks():
    for key, case in TINY.items():
        kind = calls_memory.BLOCKS[key]
        assert any(isinstance(module, kind) for module in case.build().modules()), key


def test_layers_by_hand_compute_the_same_and_no_rule_knows_them():
    hooked = Training.of(TINY["transformer"])
    own = Training.of(TINY["by-hand"])
    assert torch.equal(hooked.loss(), own.loss())
    known = (nn.Linear, nn.LayerNorm, nn.Embedding)
    assert not any(isinstance(module, known) for module in own.module.modules())


def test_one_step_in_ten_is_measured():
    method = calls_cost.prepared(TINY["lstm"], 10)
    method.monitor.flush()
    measured = []
    with method.watching():
        for _ in range(1 + len(method.timed)):  # as in a visit
            method.step()
            measured.append(method.monitor.flush())
    assert len(method.timed) == 10 and sum(measured[1:]) == 1


def test_bytes_are_counted_until_they_are_freed():
    given = torch.zeros(10)
    with Storages([given]) as storages:
        view = given.view(2, 5)
        kept = torch.zeros(100)
        (torch.zeros(50) + 1).sum()
        assert storages.held == kept.numel() * 4
    assert storages.peak == 4 * (100 + 50 + 50)
    assert view.shape == (2, 5)
