"""FSDP2, FSDP and HSDP in real processes, against one process that recomputes every gradient."""

import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from pytorch_lightning import strategies as twin
from torch import nn

from lightning_noise.core.reasons import CannotMeasureError
from lightning_noise.hosts.lightning import sharded_strategies
from lightning_noise.probes.catalogue import choose
from lightning_noise.probes.setup import Setup
from testing.launch import launch
from testing.sharded import Frozen, Net, Tied, Unused
from testing.sharded_reference import FOUR, agree, flat, gradients, moments
from testing.toys import Regression

pytestmark = pytest.mark.traced

FSDP2 = {
    "accumulated": Net,
    "layers": Net,
    "kept gathered": Net,
    "frozen": Frozen,
    "tied": Tied,
    "unused": Unused,
    "checkpointed": Net,
    "reentrant": Net,
    "meta device": Net,
    "reduced last": Net,
    "offloaded": Net,
    "clipped": Net,
    "manual": Net,
    "by name": Net,
    "grouped": Net,
    "compiled unit": Net,
    "compiled around": Net,
    "own communication": Net,
}
FSDP = {
    "accumulated": Net,
    "by name": Net,
    "compiled": Net,
    "layers": Net,
    "gradients sharded": Net,
    "not sharded": Net,
    "frozen": Frozen,
    "tied": Tied,
    "unused": Unused,
    "checkpointed": Net,
    "checkpointed inside": Net,
    "clipped": Net,
    "flat parameters": Net,
}
CASES = [("fsdp2", *case) for case in FSDP2.items()] + [("fsdp", *case) for case in FSDP.items()]


def str_of(value):
    return value if isinstance(value, str) else value.__name__


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return launch("testing.worlds.shard_runs:two", 2, folder, timeout=400.0)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "case", "module"), CASES, ids=str_of)
def test_two_ranks_of_two_micro_batches_are_four_on_one_process(two, strategy, case, module):
    for rank in two:
        result = rank[strategy][case]
        assert result["probes"] == ["shards"]
        assert result["state"]["session"]["tallies"][""]["skipped"] == []
        assert result["left"] == 0
        (step,) = result["moments"][""]
        agree(step, moments(module(), FOUR))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_one_micro_batch_per_rank(two, strategy):
    first, second = two[0][strategy]["one batch per step"]["moments"][""]
    agree(first, moments(Net(), FOUR[:2]))
    whole = gradients(Net(), FOUR)[2:]
    assert second[0] == pytest.approx(sum(float(g @ g) for g in map(flat, whole)) / 2, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_sizes_that_differ_between_ranks(two, strategy):
    (step,) = two[0][strategy]["uneven"]["moments"][""]
    agree(step, moments(Net(), [4, 3, 2, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp", "ddp"])
def test_layers(two, strategy):
    """Under each strategy the same keys, and each layer's own norms, of shards that differ in
    size.
    """
    found = two[0][strategy]["accumulated" if strategy == "ddp" else "layers"]["moments"]
    assert sorted(found) == ["", "net.0", "net.2.0", "net.3"]
    for layer in sorted(found)[1:]:
        agree(found[layer][0], moments(Net(), FOUR, layer))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one batch per step", "accumulated"])
def test_all_strategies_measure_the_same(two, case):
    of_ddp = two[0]["ddp"][case]["moments"][""]
    for strategy in ("fsdp2", "fsdp"):
        for got, want in zip(two[0][strategy][case]["moments"][""], of_ddp, strict=True):
            # single precision, gradients summed in another order
            agree(got, want, rel=5e-7)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["fabric", "loop"])
def test_hosts_without_a_trainer(two, host):
    for rank in two:
        (step,) = rank["other hosts"][host]
        agree(step, moments(Net(), FOUR))


@pytest.mark.slow
def test_steps_of_a_run_whose_weights_move(two):
    found = two[0]["trajectories"]
    assert len(found["ddp"]) == 6  # every second of three epochs' four steps
    for strategy, steps in found.items():
        for got, want in zip(steps, found["ddp"], strict=True):
            assert got == pytest.approx(want, rel=1e-4), strategy  # weights drift apart by rounding


@pytest.mark.slow
def test_the_known_answer_is_inside_the_interval(two):
    found = two[0]["known answer"]
    for strategy, estimate in found.items():
        assert estimate.steps == 200, strategy
        assert estimate.low < 11 < estimate.high, strategy
        assert estimate[:5] == pytest.approx(found["ddp"][:5], rel=1e-5), strategy


@pytest.mark.slow
def test_the_twin_package(two):
    (step,) = two[0]["twin"]["moments"][""]
    agree(step, moments(Regression(), FOUR))


def test_names_are_registered_in_both_packages():
    for registry in (StrategyRegistry, twin.StrategyRegistry):
        for name in ("fsdp_noise", "model_parallel_noise"):
            assert registry[name]["strategy"].__module__ == sharded_strategies.__name__
    assert issubclass(twin.StrategyRegistry["fsdp_noise"]["strategy"], twin.FSDPStrategy)


def test_without_shards_the_probe_is_refused():
    net = nn.Linear(2, 1)
    with pytest.raises(CannotMeasureError) as caught:
        choose("shards", Setup(accumulation=2), net, dict(net.named_parameters()))
    assert [reason.code for reason in caught.value.reasons] == ["not_sharded"]


@pytest.mark.slow
def test_reduction_in_half_precision(two):
    """The ranks' own gradients are seen in the precision of the backward pass, the average in that
    of the reduction.
    """
    cases, wanted = two[0]["fsdp2"], moments(Net(), FOUR)
    for case in ("bf16, reduced in bf16", "bf16, reduced in fp32"):
        agree(cases[case]["moments"][""][0], wanted, rel=1e-2)
    (seen,) = cases["reduced in fp16"]["moments"][""]
    assert seen[0] == pytest.approx(wanted.q_small, rel=1e-6)
    assert seen[1] == pytest.approx(wanted.q_big, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_one_rank_s_overflow_drops_the_step_everywhere(two, strategy):
    first, second = (rank[strategy]["overflow"] for rank in two)
    assert first["state"] == second["state"]
    (skipped,) = first["state"]["session"]["tallies"][""]["skipped"]
    assert (skipped["code"], skipped["count"]) == ("not_finite", 1)
    assert len(first["moments"][""]) == 3


@pytest.mark.slow
def test_no_hook_stays_behind_an_error(two):
    assert [rank["fsdp2"]["interrupted"] for rank in two] == [(0, "stopped by the test")] * 2


@pytest.mark.slow
def test_the_user_s_own_communication_still_runs(two):
    assert two[0]["fsdp2"]["own communication, calls"] == 4  # two units, two backward passes


@pytest.mark.slow
def test_what_cannot_be_seen_is_refused(two):
    for rank in two:
        found = rank["refusals"]
        assert (
            "parameter 'net.2.encoder.0.weight' has a gradient, but none was seen"
            in (found["by method"])
        )
        for case, name in (("outside", "'gain'"), ("ignored", "'net.0.bias'")):
            assert f"parameter {name} is trained outside of every sharded module" in found[case]
        assert "divides the sum of the ranks' gradients by 1.0" in found["divided"]
        assert "probe='examples' watches" in found["examples"]
        assert "probe='micro_batches' watches" in found["micro_batches"]
        assert "'hessian' and 'gauss_newton' differentiate twice" in found["hessian"]
        assert "geometry 'optimizer' weighs whole gradients" in found["optimizer"]
        assert "probe='shards' needs a model that" in found["shards under ddp"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_weights_and_random_state_are_bit_identical(two, strategy):
    for rank in two:
        found = rank["weights"]
        reference = found[f"{strategy} without"]
        for name in ("with", "layers"):
            pairs = zip(reference, found[f"{strategy} {name}"], strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_one_collective_per_log_and_no_other(two, strategy):
    for rank in two:
        count = rank["collectives"]
        added = count[strategy, True] - count[strategy, False]
        assert added == {"c10d::allreduce_": 2}  # 20 steps, every 10th
        assert not count[strategy, False] - count[strategy, True]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    return launch("testing.worlds.shard_worlds:four", 4, folder, timeout=400.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["fsdp2", "fsdp2, hybrid", "fsdp", "fsdp, hybrid", "fsdp, hybrid zero 2"]
)
def test_replicas_of_shards_are_counted_once(four, case):
    wanted = moments(Net(), [4] * 8)
    for rank in four:
        agree(rank[case]["moments"][""][0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp"])
def test_layers_and_sizes_on_four_ranks(four, strategy):
    """Most ranks hold no part of the last layer, and no two hold as much of the first."""
    found = four[0][f"{strategy}, hybrid"]["moments"]
    assert sorted(found) == ["", "net.0", "net.2.0", "net.3"]
    for layer in sorted(found)[1:]:
        agree(found[layer][0], moments(Net(), [4] * 8, layer))
    (step,) = four[0][f"{strategy}, hybrid, uneven"]["moments"][""]
    agree(step, moments(Net(), [4, 3, 6, 2, 2, 5, 1, 4]))


@pytest.mark.slow
def test_ranks_that_are_no_replicas_are_refused(four):
    for rank in four:
        assert "tensor_parallel_size=2 splits one gradient" in rank["tensor parallel"]
        assert "is averaged over 2 ranks, but 4 ranks train" in rank["other ranks"]
