"""The benchmark for accelerators, small and on the CPU: that it runs, what it counts, and how it
fills a device.
"""

import csv
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.cost import device_waits, gpu
from benchmarks.harness.command import main
from benchmarks.harness.command import run as measured
from benchmarks.harness.lightning_runs import Variant
from benchmarks.harness.rounds import compare
from testing.quick_form import fills_the_tables


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    raw = tmp_path_factory.mktemp("gpu") / "raw.csv"
    return measured(gpu.BENCHMARK, gpu.BENCHMARK.quick, raw), raw


@pytest.mark.slow
def test_the_quick_form_fills_the_tables(run):
    fills_the_tables(gpu.BENCHMARK, run[0])


@pytest.mark.slow
def test_every_variant_has_a_row_beside_its_own_baseline(run):
    rows, raw = run
    names = [
        "no callback",
        "examples, every step",
        "examples, every 10th step",
        "no callback, 2 micro-batches",
        "micro_batches, every step",
    ]
    table = [line.split(" | ") for line in gpu.table(rows).splitlines()[2:]]
    assert [line[2] for line in table] == names
    assert table[0][5] == table[3][5] == "–"  # no peak of a device's memory
    timed = [row for row in rows if row.part == "step"]
    by_name = {row.variant: row for row in timed}
    mine, base = by_name[names[4]], by_name[names[3]]
    found = compare(timed, names[4], names[3])
    assert found.cpu_ratio.median == pytest.approx(mine.cpu_seconds / base.cpu_seconds)
    lines = list(csv.DictReader(raw.read_text().splitlines()))
    assert sorted(line["variant"] for line in lines if line["part"] == "step") == sorted(names)
    assert sorted(row.place for row in timed) == [0, 1, 2, 3, 4]
    assert all(row.device and row.seconds > 0 for row in timed)


@pytest.mark.slow
def test_no_wait_is_added_outside_of_log_steps(run):
    for name, baseline in gpu.baselines_of(run[0]).items():
        assert gpu.waits_in(run[0], name).quiet == gpu.waits_in(run[0], baseline).quiet


def test_ranks_are_measured_where_there_are_several():
    names = [variant.name for variant in gpu.variants(gpu.SIZES["toy"], devices=2)]
    assert "ranks, every step" in names
    assert all(
        "strategy" in variant.trainer_options
        for variant in gpu.variants(gpu.SIZES["toy"], devices=2)
    )


@pytest.mark.slow
def test_the_profiler_sees_a_read_in_every_step():
    class Reading(Callback):
        def on_after_backward(self, trainer, module):
            module.model.head.weight.grad.sum().item()

    size = gpu.SIZES["toy"]
    job = gpu.Job(size, "bf16-true", 4, 1, "cpu")
    plain, reading = (
        gpu.waits_of(
            Variant("reading", lambda callbacks=callbacks: callbacks), gpu.model_of(size), job
        )
        for callbacks in ([], [Reading()])
    )
    assert reading.quiet_waits - plain.quiet_waits == 1
    assert reading.logged_waits - plain.logged_waits == 1


def test_waits_are_counted_by_step():
    event = device_waits.Event
    events = [
        event("cudaLaunchKernel", 1, 2),
        event("cudaStreamSynchronize", 5, 6),  # before the first step that counts
        event(device_waits.QUIET, 10, 20),
        event("cudaDeviceSynchronize", 19, 25),
        event(device_waits.LOGGED, 20, 30),
        event("Memcpy DtoH (Device -> Pageable)", 22, 23),
        event("cudaStreamSynchronize", 24, 25),
        event("Memcpy HtoD (Pinned -> Device)", 26, 27),
        event(device_waits.QUIET, 30, 40),
    ]
    assert device_waits.waits_by_step(events, on_cpu=False) == device_waits.Waits(quiet=1, logged=2)
    with pytest.raises(RuntimeError, match="2 steps without logging and 0 with"):
        device_waits.waits_by_step(
            [e for e in events if e.name != device_waits.LOGGED], on_cpu=False
        )
    with pytest.raises(RuntimeError, match="no kernel of the device"):
        device_waits.waits_by_step(events[1:], on_cpu=False)


@pytest.mark.parametrize(
    ("needs", "best"),
    [(lambda b: b / 100, 64), (lambda b: b / 10 if b < 4 else None, 2), (lambda b: 0.1, 2**14)],
)
def test_the_batch_fills_the_device(needs, best):
    assert gpu.largest_batch(needs) == best


def test_a_device_that_is_too_small():
    with pytest.raises(RuntimeError, match=r"not even a micro-batch of one.*--size"):
        gpu.largest_batch(lambda size: None)


@pytest.mark.slow
def test_memory_that_runs_out_is_a_row_and_gives_everything_back(monkeypatch):
    """As on a device: the error is torch's own, and only one variant meets it."""

    class Greedy(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

    size = gpu.SIZES["toy"]
    known = (gpu.variants(size, 1)[0], Variant("greedy", lambda: [Greedy()], {}, "no callback"))
    monkeypatch.setattr(gpu, "variants", lambda *_: known)
    job, module = gpu.Job(size, "bf16-true", 4, 1, "cpu"), gpu.model_of(size)
    rows = [gpu.visit(0, place, variant, module, job) for place, variant in enumerate(known)]
    rows += [gpu.waits_of(variant, module, job) for variant in known]
    assert rows[0].seconds > 0 and math.isnan(rows[1].seconds) and rows[3].quiet_waits is None
    lost = ["out of memory", "–", "–", "–", "–"]
    assert gpu.cells(rows, "greedy", "no callback") == lost
    assert module._trainer is None and all(p.grad is None for p in module.parameters())


def test_without_a_device_it_says_what_to_do(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        main(gpu.BENCHMARK, [])
    assert "--quick" in capsys.readouterr().err
