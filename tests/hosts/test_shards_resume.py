"""Sharded runs that adapt the batch size, and that stop and resume."""

import pytest
import torch

from testing.launch import launch

pytestmark = [pytest.mark.slow, pytest.mark.traced]

CASES = ["fsdp, sharded", "fsdp2, sharded", "fsdp2, full"]  # full by FSDP: on CUDA only
ALL = list(range(96))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Two ranks, and one that goes on with a checkpoint of theirs."""
    folder = tmp_path_factory.mktemp("worlds")
    alone = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARD_FOLDER", str(folder / "checkpoints"))
        two = launch("testing.worlds.shard_resume_world:two", 2, folder, timeout=400.0)
        return two, launch("testing.worlds.shard_resume_world:one", 1, alone)


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_adapted_sizes(worlds, case):
    """Every example once an epoch on one of the ranks, whatever the size."""
    ranks = [rank["adapted"][case]["whole"] for rank in worlds[0]]
    for rank in ranks:
        assert rank["sizes"] == [4, 8, 16, 6]
        assert rank["state"] == ranks[0]["state"]
    both = zip(ranks[0]["numbers"], ranks[1]["numbers"], strict=True)
    assert [sorted(a + b) for a, b in both] == [ALL] * 4
    assert "GradientNoiseScale: global size 8 → 16 from epoch 1 on" in ranks[0]["out"]


@pytest.mark.parametrize("case", CASES)
def test_an_adapted_run_resumes(worlds, case):
    """These strategies restore a checkpoint after the loaders may have been made."""
    for rank in worlds[0]:
        whole, resumed = rank["adapted"][case]["whole"], rank["adapted"][case]["resumed"]
        assert resumed["sizes"] == [16, 6]
        assert resumed["state"]["adaptation"] == whole["state"]["adaptation"]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(worlds, case):
    for rank in worlds[0]:
        whole, resumed = rank["resumed"][case]["whole"], rank["resumed"][case]["resumed"]
        assert resumed["state"] == whole["state"]
        assert same(resumed["weights"], whole["weights"])


def test_averages_are_taken_up_at_another_number_of_ranks(worlds):
    """Six steps of two ranks, and then an epoch of as many examples, in steps of as many."""
    (alone,) = worlds[1]
    assert alone["steps"] == 6 + 6
    assert "4 micro-batches per step on 1 rank are 4 groups" in alone["probe"]
    saved = "GradientNoiseScale: the checkpoint was saved on 2 ranks, and this run has 1 rank."
    assert [text for text in alone["warnings"] if text.startswith(saved)] == [
        f"{saved} The averages go on, and the batch size in use is counted anew."
    ]
