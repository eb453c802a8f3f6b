"""Two real processes adapt alike: both strategies, every kind of loader, errors, resume."""

import pytest
import torch

from testing.launch import launch

pytestmark = [pytest.mark.slow, pytest.mark.traced]

ALL = list(range(96))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTING_FOLDER", str(folder / "checkpoints"))
        return launch("testing.worlds.adapting_worlds:everything", 2, folder)


def together(two, name):
    return [
        sorted(a + b) for a, b in zip(two[0][name]["numbers"], two[1][name]["numbers"], strict=True)
    ]


@pytest.mark.parametrize("name", ["ddp", "ddp_noise"])
def test_every_example_once_an_epoch_on_one_of_the_ranks(two, name):
    for rank in two:
        assert rank[name]["sizes"] == [4, 8, 16, 6] and rank[name]["totals"] == [12, 6, 3, 8]
        assert rank[name]["sampler epochs"] == (0, 1, 2, 3)
        assert rank[name]["left"] == (1, 0)
    assert together(two, name) == [ALL] * 4
    assert two[0][name]["numbers"][1] != two[0][name]["numbers"][2]  # shuffled anew in each epoch


def test_ranks_agree_and_rank_0_speaks(two):
    for name in ("ddp", "ddp_noise", "clock", "passed", "own sampler", "stream", "workers"):
        assert two[0][name]["state"] == two[1][name]["state"], name
        assert all(
            torch.equal(a, b)
            for a, b in zip(two[0][name]["weights"], two[1][name]["weights"], strict=True)
        )
        assert (
            "GradientNoiseScale: global size 8 → 16 from epoch 1 on" in two[0][name]["out"]
            and two[1][name]["out"] == ""
        )


def test_rank_0_is_timed_and_all_know_the_times(two):
    times = [dict(rank["clock"]["state"]["adaptation"]["times"]) for rank in two]
    assert times[0] == times[1]
    # epochs of 12, 6, 3 and 8 steps, without the first three and the one that begins the clock;
    # from the second epoch on every second step is measured, and these count
    assert {size: len(found) for size, found in times[0].items()} == {8: 8, 16: 1, 12: 2}
    assert [rank["clock"]["state"]["adaptation"]["cadence"][0] for rank in two] == [2, 2]


def test_loaders_passed_to_fit(two):
    for rank in two:
        assert rank["passed"]["sizes"] == [4, 8, 8, 6] and rank["passed"]["accumulation"] == [
            1,
            1,
            2,
            1,
        ]
        assert rank["own sampler"]["sizes"] == [4, 8, 16, 6]
        assert rank["passed"]["loader"] == rank["own sampler"]["loader"] == 4
        assert rank["workers"]["sizes"] == [4, 8]
        assert (
            rank["stream"]["sizes"] == [4, 8, 16, 6]
            and rank["stream"]["numbers"] == [list(range(48))] * 4
        )
    assert together(two, "passed") == together(two, "own sampler") == [ALL] * 4
    assert together(two, "workers") == [ALL] * 2


def test_refusals_and_errors_are_alike_on_all_ranks(two):
    for rank in two:
        assert (
            "static_graph=True) fails inside torch once gradients are accumulated"
            in rank["static graph"]
        )
        assert rank["policy fails"] == two[0]["policy fails"]
        assert rank["policy fails"].startswith(
            "RuntimeError: GradientNoiseScale: no batch size could be decided. ZeroDivision"
        )


def test_resume(two):
    for rank in two:
        assert rank["resumed"]["sizes"] == [16, 6]
        assert rank["resumed"]["state"]["adaptation"] == rank["ddp"]["state"]["adaptation"]
        assert all(
            torch.equal(a, b)
            for a, b in zip(rank["resumed"]["weights"], rank["ddp"]["weights"], strict=True)
        )


def test_all_ranks_change_at_the_same_batch_inside_an_epoch(two):
    for name in ("inside", "other prefetch"):
        sizes = [[len(batch) for batch in rank[name]["batches"]] for rank in two]
        ahead = {"inside": 2, "other prefetch": 4}[name]  # the rank that draws most decides
        small = 3 + ahead
        middle = max(6, small + 1) + ahead - small
        full, short = divmod(96 - 4 * small - 8 * middle, 16)
        first = [4] * small + [8] * middle + [16] * full + [short] * (short > 0)
        assert sizes[0] == sizes[1] == first + [16] * 6
        for rank in two:
            assert rank[name]["totals"] == [len(first), 6]
        used = [number for rank in two for batch in rank[name]["batches"] for number in batch]
        assert sorted(used) == sorted(2 * list(range(192)))


def test_resume_inside_an_epoch(two):
    for rank in two:
        left = len(rank["inside, resumed"]["batches"])
        assert rank["inside, resumed"]["batches"] == rank["inside"]["batches"][-left:]
        assert rank["inside, resumed"]["state"] == rank["inside"]["state"]
        pairs = zip(rank["inside, resumed"]["weights"], rank["inside"]["weights"], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
