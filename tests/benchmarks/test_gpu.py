"""The benchmark for accelerators, small and on the CPU: that it runs, what it counts, and how it
fills a device.
"""

import csv
import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(gpu, tmp_path_factory):
    raw = tmp_path_factory.mktemp("gpu") / "raw.csv"
    rows = gpu.main(["--small", "--rounds", "1", "--precisions", "bf16-true", "--csv", str(raw)])
    return rows, raw


@pytest.mark.slow
def test_every_variant_has_a_row_beside_its_own_baseline(gpu, run):
    rows, raw = run
    assert [row.variant for row in rows] == [
        "no callback",
        "examples, every step",
        "examples, every 10th step",
        "no callback, 2 micro-batches",
        "micro_batches, every step",
    ]
    by_name = {row.variant: row for row in rows}
    assert (
        by_name["no callback"].ratio
        == by_name["no callback, 2 micro-batches"].ratio
        == (1.0, 1.0, 1.0)
    )
    measured = by_name["micro_batches, every step"]
    quotient = measured.seconds / by_name["no callback, 2 micro-batches"].seconds
    assert measured.ratio.median == pytest.approx(quotient)
    lines = list(csv.DictReader(raw.read_text().splitlines()))
    assert sorted(line["variant"] for line in lines) == sorted(by_name)
    assert sorted(int(line["place"]) for line in lines) == [0, 1, 2, 3, 4]
    assert all(line["device"] and float(line["seconds"]) > 0 for line in lines)


@pytest.mark.slow
def test_no_wait_is_added_outside_of_log_steps(run):
    rows, _ = run
    assert all(row.waits.quiet == 0 for row in rows)


def test_ranks_are_measured_where_there_are_several(gpu):
    names = [variant.name for variant in gpu.variants(gpu.SIZES["toy"], devices=2)]
    assert "ranks, every step" in names
    assert all(
        "strategy" in variant.trainer_options
        for variant in gpu.variants(gpu.SIZES["toy"], devices=2)
    )


@pytest.mark.slow
def test_the_profiler_sees_a_read_in_every_step(gpu):
    class Reading(gpu.Callback):
        def on_after_backward(self, trainer, module):
            module.head.weight.grad.sum().item()

    size = gpu.SIZES["toy"]
    job = gpu.Job(size, "bf16-true", 4, 1, "cpu")
    with gpu.quiet_lightning():
        plain, reading = (
            gpu.count_waits(
                gpu.Variant("reading", lambda callbacks=callbacks: callbacks),
                gpu.Decoder(size),
                job,
            )
            for callbacks in ([], [Reading()])
        )
    assert (reading.quiet - plain.quiet, reading.logged - plain.logged) == (1, 1)


def test_waits_are_counted_by_step(gpu):
    event = gpu.Event
    events = [
        event("cudaLaunchKernel", 1, 2),
        event("cudaStreamSynchronize", 5, 6),  # before the first step that counts
        event(gpu.QUIET, 10, 20),
        event("cudaDeviceSynchronize", 19, 25),
        event(gpu.LOGGED, 20, 30),
        event("Memcpy DtoH (Device -> Pageable)", 22, 23),
        event("cudaStreamSynchronize", 24, 25),
        event("Memcpy HtoD (Pinned -> Device)", 26, 27),
        event(gpu.QUIET, 30, 40),
    ]
    assert gpu.waits_by_step(events, on_cpu=False) == gpu.Waits(quiet=1, logged=2)
    with pytest.raises(RuntimeError, match="2 steps without logging and 0 with"):
        gpu.waits_by_step([e for e in events if e.name != gpu.LOGGED], on_cpu=False)
    with pytest.raises(RuntimeError, match="no kernel of the device"):
        gpu.waits_by_step(events[1:], on_cpu=False)


@pytest.mark.parametrize(
    ("needs", "best"),
    [(lambda b: b / 100, 64), (lambda b: b / 10 if b < 4 else None, 2), (lambda b: 0.1, 2**14)],
)
def test_the_batch_fills_the_device(gpu, needs, best):
    assert gpu.largest_batch(needs) == best


def test_a_device_that_is_too_small(gpu):
    with pytest.raises(RuntimeError, match=r"not even a micro-batch of one.*--size"):
        gpu.largest_batch(lambda size: None)


@pytest.mark.slow
def test_memory_that_runs_out_is_a_row_and_gives_everything_back(gpu, monkeypatch):
    """As on a device: the error is torch's own, and only one variant meets it."""

    class Greedy(gpu.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

    size = gpu.SIZES["toy"]
    known = (gpu.variants(size, 1)[0], gpu.Variant("greedy", lambda: [Greedy()], {}, "no callback"))
    monkeypatch.setattr(gpu, "variants", lambda *_: known)
    job, module = gpu.Job(size, "bf16-true", 4, 1, "cpu"), gpu.Decoder(size)
    with gpu.quiet_lightning():
        timings = list(gpu.time_rounds(job, module, 1))
        waits = {variant.name: gpu.count_waits(variant, module, job) for variant in known}
    plain, greedy = gpu.summarise(job, timings, waits)
    assert plain.seconds > 0 and math.isnan(greedy.seconds) and greedy.waits is None
    assert "greedy | out of memory | – | – | – | –" in gpu.table([plain, greedy])
    assert module._trainer is None and all(p.grad is None for p in module.parameters())


def test_without_a_device_it_says_what_to_do(gpu, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        gpu.parse([])
    assert "--small" in capsys.readouterr().err
