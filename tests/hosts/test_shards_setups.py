"""Sharded runs with loss scales, a user's own strategy, split batches, validation between steps,
Fabric, three ranks: against one process that recomputes every gradient.
"""

import pytest
import torch

from testing.launch import launch
from testing.sharded import Lora, Net, Twice, TwoPaths
from testing.sharded_reference import FOUR, agree, moments

pytestmark = [pytest.mark.slow, pytest.mark.traced]

TWO_EACH = [2] * 8
FSDP = {
    "scaled": (Net, FOUR),
    "own strategy": (Net, FOUR),
    "low rank": (Lora, FOUR),
    "two paths": (TwoPaths, FOUR),
    "four": (Net, TWO_EACH),
    "validated": (Net, TWO_EACH),
}
FSDP2 = {
    "own strategy": (Net, FOUR),
    "low rank": (Lora, FOUR),
    "called twice": (Twice, FOUR),
    "columns": (Net, FOUR),
    "four": (Net, TWO_EACH),
    "validated": (Net, TWO_EACH),
}
CASES = [("fsdp", *case) for case in FSDP.items()] + [("fsdp2", *case) for case in FSDP2.items()]
SPLITS = ["whole", "odd", "few", "few on one rank"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return launch("testing.worlds.shard_setups:two", 2, folder, timeout=400.0)


def skipped(result):
    found = result["state"]["session"]["tallies"][""]["skipped"]
    return [(reason["code"], reason["count"]) for reason in found]


@pytest.mark.parametrize(("strategy", "case", "expected"), CASES, ids=str)
def test_two_ranks_are_as_many_groups_on_one_process(two, strategy, case, expected):
    module, sizes = expected
    for rank in two:
        result = rank[strategy][case]
        assert result["probes"] == ["shards"]
        assert skipped(result) == []
        assert result["left"] == 0
        (step,) = result["moments"][""]
        agree(step, moments(module(), sizes))


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_a_loss_scale_in_fp16_is_divided_out(two, strategy):
    (step,) = two[0][strategy]["scaled, fp16"]["moments"][""]
    agree(step, moments(Net(), FOUR), rel=1e-3)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_steps_that_the_loss_scale_overflows_are_skipped(two, strategy):
    for rank in two:
        assert skipped(rank[strategy]["overflows"]) == [("not_finite", 4)]
        assert rank[strategy]["overflows"]["moments"] == {}


def test_a_user_s_strategy_keeps_its_communication(two):
    """Two units: FSDP reduces in the last of two micro-batches, and FSDP2 in both."""
    assert [rank["fsdp"]["own strategy, calls"] for rank in two] == [2, 2]
    assert [rank["fsdp2"]["own strategy, calls"] for rank in two] == [4, 4]


def test_a_unit_that_fsdp_gathers_twice(two):
    """Its gradient comes in two parts: the first step is skipped, and they are summed from then
    on.
    """
    for rank in two:
        result = rank["fsdp"]["called twice"]
        assert skipped(result) == [("gradient_in_parts", 1)]
        (step,) = result["moments"][""]
        agree(step, moments(Twice(), FOUR))


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_a_step_in_which_one_parameter_is_not_seen_is_skipped(two, strategy):
    for rank in two:
        assert skipped(rank[strategy]["deaf"]) == [("not_finite", 2)]
        assert rank[strategy]["deaf"]["moments"] == {}


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_every_tenth_step(two, strategy):
    found = two[0][strategy]["every tenth"]["moments"][""]
    wanted = two[0]["ddp"]["every tenth"]["moments"][""]
    assert len(found) == 2
    for step, same in zip(found, wanted, strict=True):
        agree(step, same, rel=1e-5)  # weights drift apart by rounding


def test_fabric_with_fsdp(two):
    for rank in two:
        (step,) = rank["fabric"]
        agree(step, moments(Net(), FOUR))


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("case", SPLITS)
def test_split_batches_train_as_whole_ones(two, strategy, case):
    """Also where one rank's last batch is too short to be split, and the other's is not."""
    for rank in two:
        runs = rank["splits"][strategy, case]
        assert runs["split"]["steps"] == runs["without"]["steps"]
        pairs = zip(runs["split"]["weights"], runs["without"]["weights"], strict=True)
        for split, whole in pairs:
            torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_split_batches_are_measured_as_halves(two, strategy):
    runs = two[0]["splits"][strategy, "whole"]
    assert runs["split"]["estimate"] == runs["halved"]["estimate"]


def test_split_does_not_warn_of_single_examples(two):
    assert [text for rank in two for text in rank["warnings"] if "split" in text] == []


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return launch("testing.worlds.shard_setups:three", 3, tmp_path_factory.mktemp("three"))


@pytest.mark.parametrize("case", ["fsdp", "fsdp2", "fsdp, not sharded"])
def test_three_ranks_share_no_layer_evenly(three, case):
    sizes = [4, 3, 6, 2, 5, 1]
    for rank in three:
        found = rank[case]["moments"]
        assert sorted(found) == ["", "net.0", "net.2.0", "net.3"]
        for layer in sorted(found):
            agree(found[layer][0], moments(Net(), sizes, layer))
