"""Two and three real processes against one process that recomputes all of them."""

import math
import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale, Moments, NoiseScaleMetric, estimate_noise_scale
from lightning_noise.core.moments import from_contributions
from testing.gans import Gan, by_hand, gan_data
from testing.launch import launch
from testing.toys import data, fit
from testing.worlds.ddp_worlds import Frozen, Unused

pytestmark = pytest.mark.traced


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launch("testing.worlds.ddp_worlds:everything", 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return launch("testing.worlds.ddp_worlds:weights_only", 3, tmp_path_factory.mktemp("three"))


def gradients(sizes, module=None, loss=None, dtype=torch.float64):
    """Each group's gradient, recomputed in one process: ``sizes`` in the order of the common
    stream.
    """
    module = (module or Frozen()).to(dtype)
    x, y = (t.to(dtype) for t in data(examples=400).dataset.tensors)
    result, at = [], 0
    for index, size in enumerate(sizes):
        module.zero_grad(set_to_none=True)
        (loss or (lambda m, batch, _: m.loss(batch)))(
            module, (x[at : at + size], y[at : at + size]), index
        ).backward()
        result.append(
            torch.cat(
                [
                    (p.grad if p.grad is not None else torch.zeros_like(p)).flatten()
                    for p in module.parameters()
                ]
            )
        )
        at += size
    return [g.double() for g in result]


def moments(grads, weights, sizes):
    mean = sum(w * g for g, w in zip(grads, weights, strict=True))
    return from_contributions(
        [float((w * g) @ (w * g)) for g, w in zip(grads, weights, strict=True)],
        weights,
        sizes,
        float(mean @ mean),
    )


def q(result, m):
    """The squared norms behind a one-step result."""
    return result["grad_sq"] + m.c_small * result["trace"], result["grad_sq"] + m.c_big * result[
        "trace"
    ]


def agrees(result, m, rel=1e-9):
    assert result["steps"] == 1
    assert q(result, m) == (pytest.approx(m.q_small, rel=rel), pytest.approx(m.q_big, rel=rel))


FOUR = [4, 4, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "mixin, micro-batches"])
def test_two_ranks_of_two_micro_batches_are_four_on_one_process(two, name):
    agrees(two[0]["estimates"][name], moments(gradients(FOUR), [0.25] * 4, FOUR))
    one = GradientNoiseScale()
    x, y = data(examples=400).dataset.tensors
    loader = DataLoader(TensorDataset(x[:16].double(), y[:16].double()), batch_size=4)
    fit(Frozen(), loader, one, accumulate=4, precision=64)
    assert two[0]["estimates"][name]["trace"] == pytest.approx(one.estimate().noise, rel=1e-12)
    assert two[0]["estimates"][name]["grad_sq"] == pytest.approx(one.estimate().signal, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mixin, ranks", "views", "compiled inside", "compiled around", "own strategy", "layers"],
)
def test_ranks_are_groups_accumulated_over_the_step(two, name):
    g = gradients(FOUR)  # rank 0 has the micro-batches 0 and 2 of the stream
    agrees(
        two[0]["estimates"][name],
        moments([(g[0] + g[2]) / 2, (g[1] + g[3]) / 2], [0.5, 0.5], [8, 8]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["examples", "examples, mixin"])
def test_single_examples_on_all_ranks(two, name):
    agrees(two[0]["estimates"][name], moments(gradients([1] * 16), [1 / 16] * 16, [1] * 16))


@pytest.mark.slow
def test_norms_of_a_large_fp32_gradient(two):
    sizes = [8, 8]
    agrees(
        two[0]["estimates"]["large fp32"],
        moments(gradients(sizes, Frozen(width=3000), dtype=torch.float32), [0.5, 0.5], sizes),
        1e-7,
    )


@pytest.mark.slow
def test_unequal_sizes_travel_in_the_row(two, three):
    """DDP weighs ranks equally, Lightning weighs micro-batches equally, whatever their sizes."""
    sizes = [4, 3, 2, 5]  # rank 0: 4 and 2; rank 1: 3 and 5
    g = gradients(sizes)
    agrees(two[0]["estimates"]["plain, uneven"], moments(g, [0.25] * 4, sizes))
    of_rank = [1 / (0.25 / a + 0.25 / b) for a, b in ((4, 2), (3, 5))]
    agrees(
        two[0]["estimates"]["mixin, ranks, uneven"],
        moments([(g[0] + g[2]) / 2, (g[1] + g[3]) / 2], [0.5, 0.5], of_rank),
    )
    agrees(three[1]["estimates"]["uneven"], moments(gradients([4, 3, 6]), [1 / 3] * 3, [4, 3, 6]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "count"),
    [("ranks, 1 of 12", 12, 1), ("ranks, 2 of 6", 6, 2), ("ranks, 3 of 4", 4, 3)],
)
def test_the_bucket_holds_the_whole_accumulation(two, name, size, count):
    g = gradients([size] * (2 * count))
    agrees(
        two[0]["estimates"][name],
        moments([sum(g[rank::2]) / count for rank in (0, 1)], [0.5, 0.5], [12, 12]),
    )


@pytest.mark.slow
def test_parameters_that_are_not_used(two):
    def loss(module, batch, index):
        loss = Frozen.loss(module, batch)
        return loss + module.sometimes(batch[0]).mean() if index % 2 == 0 else loss

    g = gradients(FOUR, Unused(), loss)
    agrees(
        two[0]["estimates"]["unused"],
        moments([(g[0] + g[2]) / 2, (g[1] + g[3]) / 2], [0.5, 0.5], [8, 8]),
    )
    agrees(two[0]["estimates"]["unused, plain"], moments(g, [0.25] * 4, FOUR))


@pytest.mark.slow
def test_layers_add_up(two):
    keys = two[0]["estimates"]["layers"]["state"]["session"]["averages"]
    x = {tuple(k["key"]): k["average"][0]["sums"]["X"] for k in keys}
    assert x["euclidean", "", ""] == pytest.approx(sum(v for k, v in x.items() if k[2]))
    assert len(x) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one rank overflows", "one rank overflows, ranks"])
def test_one_rank_s_overflow_drops_the_step_everywhere(two, name):
    states = [rank["estimates"][name]["state"] for rank in two]
    assert states[0]["session"]["averages"] == states[1]["session"]["averages"]
    for state in states:
        (entry,) = state["session"]["tallies"][""]["skipped"]
        assert (entry["code"], entry["count"]) == ("not_finite", 1)
    assert (
        two[0]["estimates"][name]["steps"] == 5 and two[0]["estimates"]["many steps"]["steps"] == 6
    )


@pytest.mark.slow
def test_all_ranks_hold_the_same_state_and_rank_0_speaks(two):
    for name, result in two[0]["estimates"].items():
        if isinstance(result, dict):
            assert result["state"] == two[1]["estimates"][name]["state"], name
            assert (
                "\n  noise scale: b_simple" in result["out"]
                and two[1]["estimates"][name]["out"] == ""
            )


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_weights_and_random_state_are_bit_identical(world, request):
    for rank in request.getfixturevalue(world):
        reference = rank["weights"].pop("ddp")
        for name, tensors in rank["weights"].items():
            assert all(torch.equal(a, b) for a, b in zip(reference, tensors, strict=True)), name
        rank["weights"]["ddp"] = reference


@pytest.mark.slow
def test_the_user_s_hooks_run_behind_the_tap(two):
    hooks, sizes = two[0]["hooks"], [4, 4]
    m = moments(gradients(sizes), [0.5, 0.5], sizes)
    agrees(hooks["none"], m)
    assert hooks["calls"] == ["my state"] and hooks["powerSGD iterations"] == 1
    assert two[0]["estimates"]["own strategy, hook calls"] >= 1
    for name in ("counting fp16", "powerSGD", "wrapped"):
        small, big = q(hooks[name], m)
        assert small == pytest.approx(m.q_small, rel=1e-9)  # seen before compression
        assert big == pytest.approx(m.q_big, rel=2e-3)
        assert "may lose some of the gradient" in hooks[name]["out"]
    assert "may lose" not in hooks["none"]["out"]


@pytest.mark.slow
def test_warnings_come_with_evidence(two):
    found = two[0]["warnings"]
    assert "ranks 0 and 1 drew the same examples (equal gradient norms)" in found["same examples"]
    assert len(found["same examples, warned"]) == 1
    assert (
        "DistributedSampler repeats 1 of 9 examples" in found["padding"]
        and "same examples" not in found["padding"]
    )
    assert "BatchNorm ties the examples" in found["batch norm"]


@pytest.mark.slow
def test_refusals_are_alike_on_all_ranks(two):
    for key, text in {
        "ranks without the "
        "mixin": "probe='ranks' reads the buckets of DDP.*ddp_noise.*probe='micro_batches'",
        "static graph": r"static_graph=True\) with accumulate_grad_batches=2",
        "post-local SGD": "post-local SGD averages gradients within a sub-group",
    }.items():
        assert re.search(text, two[0]["warnings"][key]), key
        assert two[0]["warnings"][key] == two[1]["warnings"][key]
    assert two[0]["warnings"]["static graph without accumulation"] is None


@pytest.mark.slow
def test_one_collective_a_log_and_no_other(two):
    count = two[0]["collectives"]
    logs = 4  # 40 steps, every 10th; the end of the epoch has nothing new
    for name in ("ddp", "mixin"):
        added = {
            k: v - count[name].get(k, 0)
            for k, v in count[f"{name} and callback"].items()
            if v != count[name].get(k, 0)
        }
        assert added == {"all_reduce": logs}, name


@pytest.mark.slow
def test_metric_needs_one_collective_and_equals_one_process(two):
    count = two[0]["collectives"]
    assert count["metric collectives"] == ["all_reduce"]
    draws = count["metric draws"]
    steps = [
        Moments(
            float((d * d).sum(dim=1).mean()), float(d.mean(dim=0) @ d.mean(dim=0)), 1 / 4, 1 / 8
        )
        for d in draws
    ]
    e = estimate_noise_scale(steps)
    assert count["metric"] == {
        "grad_sq": pytest.approx(e.signal),
        "trace": pytest.approx(e.noise),
        "b_simple": pytest.approx(e.noise_scale),
        "b_simple_low": pytest.approx(e.low),
        "b_simple_high": pytest.approx(e.high),
    }


def test_metric_called_like_a_function_counts_every_step():
    by_call, by_update = NoiseScaleMetric(), NoiseScaleMetric()
    for q_small in (5.0, 5.5, 6.0, 5.2, 5.8, 5.4):
        by_call(q_small, 4.5, 1.0, 0.5)
        by_update.update(q_small, 4.5, 1.0, 0.5)
    assert by_call.compute() == by_update.compute() and "b_simple" in by_call.compute()


def test_metric_alone():
    metric = NoiseScaleMetric()
    for _ in range(200):
        metric.update(torch.tensor(6.0), 6.0, 1.0, 0.5)
    assert {k: float(v) for k, v in metric.compute().items()} == {"grad_sq": 6.0, "trace": 0.0}
    metric.reset()
    metric.update(math.nan, 6.0, 1.0, 0.5)
    assert metric.compute() == {}
    metric.reset()
    assert metric.table.shape == (0, 5)
    with pytest.raises(ValueError, match="confidence must lie"):
        NoiseScaleMetric(confidence=2)


def test_registered_once_under_all_of_lightning_s_variants():
    from lightning.pytorch.strategies import StrategyRegistry

    from lightning_noise import NoiseDDPStrategy

    NoiseDDPStrategy.register_strategies(StrategyRegistry)  # again: nothing happens
    ours = {
        name for name in StrategyRegistry.available_strategies() if name.startswith("ddp_noise")
    }
    theirs = {
        name
        for name in StrategyRegistry.available_strategies()
        if name.startswith("ddp") and name not in ours
    }
    assert {name.replace("ddp_noise", "ddp") for name in ours} == theirs and len(ours) == 12
    assert all(StrategyRegistry[name]["strategy"] is NoiseDDPStrategy for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "accumulate", "groups", "probe"),
    [
        ("ddp", 2, "batches", "micro_batches"),
        ("ddp, accumulated", 6, "batches", "micro_batches"),
        ("mixin", 2, "batches", "ranks"),
        ("mixin, untoggled", 2, "batches", "ranks"),
        ("mixin, single examples", 2, "examples", "examples"),
    ],
)
def test_gan_on_two_ranks_equals_one_process(two, case, accumulate, groups, probe):
    """Weights stand still, so that a step of two ranks (and three batches each) is one of 2 (6)
    batches on one process.
    """
    result = two[0]["gans"][case]
    hand = by_hand(
        Gan(lr=0.0, accumulate=accumulate).double(), gan_data(dtype=torch.float64), groups
    )
    assert result["probes"] == [probe, probe] and result == two[1]["gans"][case]
    for name, which in (("Adam", "g"), ("Adam-1", "d")):
        trace, grad_sq, steps = result[name]
        expected = estimate_noise_scale(hand[which], decay=0.99)
        assert steps == expected.steps == 6 // accumulate
        if groups == "examples":  # sketched, so only the norm of the mean is exact
            moments = hand[which][0]
            assert grad_sq + moments.c_big * trace == pytest.approx(
                expected.signal + moments.c_big * expected.noise, rel=1e-6
            )
        else:
            assert (trace, grad_sq) == (
                pytest.approx(expected.noise, rel=1e-9),
                pytest.approx(expected.signal, rel=1e-9),
            )


@pytest.mark.slow
def test_where_the_probe_was_not_named_both_ranks_stop_measuring_and_train_on(two):
    for rank in two:
        found = rank["gans"]["mixin, stopped"]
        assert found["probes"] == ["ranks", "ranks"] and found["Adam"][2] == 0


@pytest.mark.slow
def test_ranks_probe_refuses_batches_accumulated_by_hand(two):
    assert (
        "probe='ranks' sees only the last of several backward passes for one step of Adam"
        in two[0]["gans"]["mixin, accumulated"]
    )
