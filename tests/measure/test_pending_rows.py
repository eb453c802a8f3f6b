"""Rows wait on the device, and are read together: one collective, one copy to the host."""

import math

import pytest
import torch

from lightning_noise.measure.pending_rows import Flushed, PendingRow, PendingRows, Totals
from lightning_noise.measure.skips import NO_SIZE

CPU = torch.device("cpu")


def row(value, n=8, source="", size=5.0, fault=None, rate=None):
    return PendingRow(
        source, torch.full((n,), float(value), dtype=torch.float64), size, fault, rate
    )


def opened(*sources, **arguments):
    rows = PendingRows(**arguments)
    for source in sources or ("",):
        rows.open(source)
    return rows


def test_nothing_is_read_until_rows_are_flushed(monkeypatch):
    reads = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(1) or real(self))
    calls = []
    rows = opened(reduce=lambda t: calls.append(t.shape) or t * 2)
    for step in range(3):
        rows.append(row(step))
        rows.count("", 5)
    assert len(rows) == 3 and not reads
    found, totals = rows.flush(CPU)
    assert (len(reads), calls) == (1, [(1 + 1 + 3 * 9,)])
    assert totals == {"": Totals(examples=30, by_rank=[4.0])}
    assert [one.size for one in found] == [10] * 3
    assert found[2].values == [4.0] * 8
    assert rows.flush(CPU) == Flushed([], {}) and len(calls) == 1
    rows.count("", 7)
    assert rows.flush(CPU) == Flushed([], {"": Totals(14, [0.0])})


def test_several_sources_share_one_collective_and_come_back_in_order():
    calls = []
    rows = opened("g", "d", reduce=lambda t: calls.append(t.shape) or t, rank=1, ranks=2)
    for source, n in (("d", 4), ("curvature", 9), ("g", 8), ("d", 4)):
        rows.append(row(len(source), n, source, rate=0.1))
    rows.count("g", 3)
    rows.count("d", 2)
    found, totals = rows.flush(CPU)
    assert calls == [(2 * (2 + 1) + 4 + (4 + 9 + 8 + 4),)]
    assert [(one.source, len(one.values), one.learning_rate) for one in found] == [
        ("d", 4, 0.1),
        ("curvature", 9, 0.1),
        ("g", 8, 0.1),
        ("d", 4, 0.1),
    ]
    assert totals == {"g": Totals(3, [0.0, 1.0]), "d": Totals(2, [0.0, 1.0])}


def test_a_rate_on_the_device_is_read_with_the_rows():
    rows = opened()
    rows.append(row(1, rate=torch.tensor(0.25)))
    assert rows.flush(CPU).rows[0].learning_rate == 0.25


def test_what_is_forgotten_is_not_read():
    rows = opened(reduce=pytest.fail)
    rows.append(row(1))
    rows.count("", 4)
    rows.forget()
    assert len(rows) == 0 and rows.flush(CPU) == Flushed([], {})


def test_a_size_unknown_on_one_rank_is_the_reason_on_all():
    """What each rank reads is the sum over both; only the second could not determine its batch
    size.
    """
    sent = []
    worded = NO_SIZE._replace(text="its code alone says what it is")
    for rank, (fault, value) in enumerate(((None, 1.0), (worded, math.nan))):
        rows = opened(reduce=lambda t: sent.append(t) or t, rank=rank, ranks=2)
        rows.append(row(value, fault=fault))
        rows.flush(CPU)
    for rank, fault in ((0, None), (1, NO_SIZE)):
        rows = opened(reduce=lambda t: sent[0] + sent[1], rank=rank, ranks=2)
        rows.append(row(1, fault=fault))
        (found,) = rows.flush(CPU).rows
        assert (found.fault, found.size) == (NO_SIZE, 0.0)
