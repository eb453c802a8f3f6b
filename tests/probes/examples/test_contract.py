"""What a host may rely on: weights and units, keys, states of the model, faults, and that nothing
is left behind or changed.
"""

import pickle
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.core.moments import Key, Moments, from_contributions
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.examples.faults import NOTHING_SEEN
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Context, Probe
from testing.examples.models import LanguageModel, mlp, resnet
from testing.examples.oracle import assert_agrees, bound, keys_of, loop, step


def data(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make(build=mlp, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def classify(model: nn.Module, x: Tensor, reduction: str = "mean") -> Tensor:
    return functional.cross_entropy(
        model(x), x.flatten(1).abs().sum(1).long() % 5, reduction=reduction
    )


def whole_step(
    probe: Probe,
    model: nn.Module,
    batches,
    weights,
    loss=classify,
    sizes=None,
    examples=None,
) -> Moments:
    """One step of several micro-batches."""
    parameters = dict(model.named_parameters())
    with probe.attach(parameters, {Key(): list(parameters)}):
        model.zero_grad()
        for number, (x, weight) in enumerate(zip(batches, weights, strict=True)):
            size = len(x) if sizes is None else sizes[number]
            probe.begin(size, weight, *([] if examples is None else [examples]))
            (loss(model, x) * weight).backward()
            probe.end()
        row = probe.row()
    assert row is not None, probe.fault()
    return Moments(*row[0].tolist())


# ---- groups, weights, units ---------------------------------------------------------------------


def test_it_is_a_probe() -> None:
    assert isinstance(Examples(), Probe)


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_mean_or_sum_gives_the_same_noise_scale(reduction: str, weight: float) -> None:
    model, x = make(), data(8, 12)
    moments = whole_step(
        bound(model, exact=True), model, [x], [weight], lambda m, x: classify(m, x, reduction)
    )
    mean = whole_step(bound(model, exact=True), model, [x], [1.0])
    assert moments.noise / moments.signal == pytest.approx(mean.noise / mean.signal, rel=1e-10)
    assert moments.noise == pytest.approx(mean.noise * (64 if reduction == "sum" else 1), rel=1e-10)


def test_micro_batches_of_one_size_are_one_batch() -> None:
    model, x = make(), data(12, 12)
    whole = whole_step(bound(model, exact=True), model, [x], [1.0])
    parts = whole_step(bound(model, exact=True), model, x.split(4), [1 / 3] * 3)
    assert parts == pytest.approx(whole, rel=1e-10)


def test_a_short_window_is_normalised() -> None:
    """Lightning divides by accumulate_grad_batches, also where fewer micro-batches came."""
    model, x = make(), data(8, 12)
    whole = whole_step(bound(model, exact=True), model, [x], [1.0])
    assert whole_step(bound(model, exact=True), model, x.split(4), [1 / 5] * 2) == pytest.approx(
        whole, rel=1e-10
    )


def test_single_examples_are_what_micro_batches_of_one_are() -> None:
    model, x = make(), data(6, 12)
    single = whole_step(MicroBatches(), model, x.split(1), [1 / 6] * 6)
    assert whole_step(bound(model, exact=True), model, [x], [1.0]) == pytest.approx(
        single, rel=1e-10
    )


def test_unequal_micro_batches_follow_their_weights() -> None:
    """An example's weight is its micro-batch's, shared evenly, as MicroBatches would have it for
    groups of one.
    """
    model, x = make(), data(8, 12)
    found = whole_step(bound(model, exact=True), model, [x[:6], x[6:]], [0.5, 0.5])
    shares = [0.5 / 6] * 6 + [0.5 / 2] * 2
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) * shares[i] for i in range(8)])
    assert found.c_big == pytest.approx(sum(share**2 for share in shares))
    assert found.c_small == pytest.approx(1)
    assert found.q_big == pytest.approx(sum(truth.big.values()), rel=1e-9)
    single = [loop(model, [lambda i=i: classify(model, x[i : i + 1])]) for i in range(8)]
    wanted = sum(share * sum(one.small.values()) for share, one in zip(shares, single, strict=True))
    assert found.q_small == pytest.approx(wanted, rel=1e-9)


def test_token_means_with_padding_are_contributions() -> None:
    model = make(LanguageModel)
    ids = torch.randint(20, (6, 8), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 1, 3, 2, 7, 1])
    targets = torch.where(torch.arange(7) < lengths[:, None], ids[:, 1:], -100)

    def part(rows: slice) -> Tensor:
        lost = functional.cross_entropy(
            model(ids[rows, :-1]).flatten(0, 1), targets[rows].flatten(), reduction="sum"
        )
        return lost / lengths.sum()

    found = step(bound(model, exact=True), model, lambda: part(slice(None)), 6)
    truth = loop(model, [lambda i=i: part(slice(i, i + 1)) for i in range(6)])
    assert_agrees(found, truth, 6, tolerance=1e-9)
    single = [
        sum(loop(model, [lambda i=i: part(slice(i, i + 1))]).small.values()) for i in range(6)
    ]
    assert found is not None
    assert found[""] == pytest.approx(
        from_contributions(single, [1] * 6, [1] * 6, sum(truth.big.values())), rel=1e-9
    )


def test_sizes_in_tokens_give_moments_in_tokens() -> None:
    model, x = make(), data(8, 12)
    in_examples = whole_step(bound(model, exact=True), model, [x], [1.0])
    counted = {"sizes": [8 * 25.0], "examples": 8}
    in_tokens = whole_step(bound(model, exact=True), model, [x], [1.0], **counted)
    assert in_tokens.c_big == pytest.approx(1 / 200)
    assert in_tokens.noise == pytest.approx(25 * in_examples.noise)
    assert in_tokens.signal == pytest.approx(in_examples.signal)


@pytest.mark.parametrize("replicas", [1, 3])
def test_rows_of_replicas_add_up_to_the_row_of_the_step(replicas: int) -> None:
    model, x = make(), data(8, 12)
    keys = keys_of(model)
    alone, part = bound(model, exact=True), bound(model, exact=True)
    rows = []
    for probe, context in ((alone, Context()), (part, Context(replicas))):
        with probe.attach(dict(model.named_parameters()), keys, context):
            model.zero_grad()
            probe.begin(8, 1.0)
            classify(model, x).backward()
            probe.end()
            rows.append(probe.row())
    whole, mine = rows
    assert whole is not None and mine is not None
    assert torch.equal(mine[:, :3], whole[:, :3] / replicas)
    assert torch.equal(mine[:, 3], whole[:, 3] / replicas**2)


def test_it_says_what_it_can_do() -> None:
    probe = Examples()
    assert (probe.name, probe.metrics) == ("examples", {"euclidean"})
    assert probe.watches_forward and probe.sees_every_pass
    probe.starts(7)
    assert probe.step_index == 7


def test_a_discarded_step_shows_nothing_of_the_layers() -> None:
    layer = nn.Linear(4, 3).double()
    probe = bound(layer)
    with probe.attach(dict(layer.named_parameters()), keys_of(layer)):
        for positions, discarded in ((5, True), (6, False)):
            probe.begin(5, 1.0)
            layer(data(5, positions, 4)).square().mean().backward()
            if discarded:
                probe.discard()
                assert probe.doubtful == []
            else:
                probe.end()
                assert probe.row() is not None
    assert probe.doubtful == []


def test_a_micro_batch_without_weight_is_passed_over() -> None:
    model, x = make(), data(8, 12)
    whole = whole_step(bound(model, exact=True), model, [x], [1.0])
    assert whole_step(bound(model, exact=True), model, [x, x], [1.0, 0.0]) == pytest.approx(
        whole, rel=1e-10
    )


def test_a_loss_scale_scales_both_norms() -> None:
    model, x = make(), data(8, 12)
    plain = whole_step(bound(model, exact=True), model, [x], [1.0])
    scaled = whole_step(
        bound(model, exact=True), model, [x], [1.0], lambda m, x: 1024 * classify(m, x)
    )
    assert scaled.noise == pytest.approx(2**20 * plain.noise, rel=1e-10)
    assert scaled.signal == pytest.approx(2**20 * plain.signal, rel=1e-9)


# ---- states of the model ------------------------------------------------------------------------


def test_frozen_layers_are_no_part_of_it() -> None:
    model, x = make(), data(6, 12)
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 6 for i in range(6)])
    probe = bound(model, exact=True)
    assert_agrees(step(probe, model, lambda: classify(model, x), 6), truth, 6)
    assert set(truth.small) == {"2.bias", "4.weight", "4.bias"}
    assert probe.coverage is not None and probe.coverage.parameters == 1


def test_inputs_of_a_bias_are_not_kept() -> None:
    layer, x, packed = nn.Linear(6, 3), torch.randn(4, 6), []
    layer.weight.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t.data_ptr()) or t, lambda t: t
    ):
        assert step(bound(layer), layer, lambda: layer(x).square().sum(), 4) is not None
    assert x.data_ptr() not in packed


def test_parts_in_eval_mode_or_without_gradient() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.still, self.off, self.last = (
                nn.Linear(12, 9),
                nn.Sequential(nn.Linear(9, 9), nn.Dropout(0.5)),
                nn.Linear(9, 5),
            )
            self.off.eval()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.still(x)
            return self.last(self.off(x))

    model, x = make(Parts), data(6, 12)
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 6 for i in range(6)])
    found = step(bound(model, exact=True), model, lambda: classify(model, x), 6)
    assert truth.small["still.weight"] == 0
    assert_agrees(found, truth, 6)


def test_inputs_that_require_gradients_and_keyword_calls() -> None:
    layer, x = make(lambda: nn.Linear(12, 5)), data(6, 12).requires_grad_()
    truth = loop(layer, [lambda i=i: layer(x[i : i + 1]).square().sum() / 6 for i in range(6)])
    assert_agrees(
        step(bound(layer, exact=True), layer, lambda: layer(input=x).square().sum() / 6, 6),
        truth,
        6,
    )


def test_keys_have_their_own_rows() -> None:
    model, x = make(resnet), data(4, 3, 8, 8)
    names = [name for name, _ in model.named_parameters()]
    keys = {
        Key(): names,
        Key(layer="stem"): ["0.weight", "0.bias"],
        Key(layer="head"): [n for n in names if n.startswith("8")],
    }
    probe = bound(model, exact=True)
    with probe.attach(dict(model.named_parameters()), keys):
        model.zero_grad()
        probe.begin(4, 1.0)
        classify(model, x).backward()
        probe.end()
        row = probe.row()
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 4 for i in range(4)])
    assert row is not None and row.shape == (3, 4) and row.dtype == torch.float64
    for values, owned in zip(row.tolist(), keys.values(), strict=True):
        assert values == pytest.approx(truth.moments(4, owned), rel=1e-9)


# ---- nothing changed, nothing left --------------------------------------------------------------


def hooks_of(model: nn.Module) -> int:
    modules = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )
    return modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


def test_all_hooks_are_removed() -> None:
    model, x = make(), data(6, 12)
    probe = bound(model)
    step(probe, model, lambda: classify(model, x), 6)
    assert hooks_of(model) == 0
    with (
        pytest.raises(ZeroDivisionError),
        probe.attach(dict(model.named_parameters()), keys_of(model)),
    ):
        probe.begin(6, 1.0)
        assert hooks_of(model) > 0
        raise ZeroDivisionError
    assert hooks_of(model) == 0
    probe.begin(6, 1.0)
    classify(model, x).backward()
    probe.end()
    assert probe.row() is None


def test_gradients_and_random_state_are_bit_for_bit_the_same() -> None:
    model = make(LanguageModel).float()
    ids = torch.randint(20, (5, 8), generator=torch.Generator().manual_seed(0))

    def run(probe: Examples | None) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(9)
        model.zero_grad()
        loss = lambda: functional.dropout(model(ids[:, :-1]), 0.3).square().mean()  # noqa: E731
        if probe is None:
            loss().backward()
        else:
            assert step(probe, model, loss, 5) is not None
        return [
            p.grad.clone() for p in model.parameters() if p.grad is not None
        ], torch.random.get_rng_state()

    with torch.random.fork_rng():
        (plain, state), *others = (
            run(None),
            run(bound(model)),
            run(bound(model, exact=True)),
            run(bound(model, sketches=3)),
        )
    for grads, after in others:
        assert torch.equal(after, state)
        assert all(torch.equal(a, b) for a, b in zip(grads, plain, strict=True))


def test_signs_follow_seed_step_micro_batch_and_rank_alone() -> None:
    model, x = make(lambda: nn.Linear(12, 30)), data(6, 4, 12)

    def draw(step_index: int = 0, seed: int = 0, rank: int = 0, warm: int = 0) -> float:
        probe = Examples()
        probe.bind(model, seed=seed, rank=rank)
        for _ in range(warm):
            step(probe, model, lambda: model(x).square().sum(), 6)
        probe.step_index = step_index if not warm else probe.step_index
        found = step(probe, model, lambda: model(x).square().sum(), 6)
        assert found is not None
        return found[""].q_small

    assert draw() == draw()
    assert draw(step_index=2) == draw(warm=2)
    assert len({draw(), draw(step_index=1), draw(seed=1), draw(rank=1)}) == 4


def test_calls_outside_of_a_micro_batch_do_not_matter() -> None:
    model, x = make(), data(6, 12)
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 6 for i in range(6)])
    probe = bound(model)
    with probe.attach(dict(model.named_parameters()), keys_of(model)):
        for _ in range(2):
            model.zero_grad()
            probe.begin(6, 1.0)
            classify(model, x).backward()
            probe.end()
            row = probe.row()
            classify(model, x).backward()  # somebody else's
            with torch.no_grad():
                classify(model, x)  # validation: no second use of the next step
        assert row is not None
        assert float(row[0, 0]) == pytest.approx(6 * sum(truth.small.values()), rel=1e-10)


def test_a_gate_that_opens_after_the_forward_pass() -> None:
    """As Lightning does it; what autograd.grad asks in between is not seen."""
    model, x = (
        make(lambda: nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5))),
        data(6, 12).requires_grad_(),
    )
    probe, rows = bound(model, exact=True), []
    with probe.attach(dict(model.named_parameters()), keys_of(model)):
        for _ in range(2):
            model.zero_grad()
            probe.listen()
            lost = classify(model, x)
            torch.autograd.grad(lost, x, retain_graph=True)
            probe.begin(6, 1.0)
            lost.backward()
            probe.end()
            rows.append(probe.row())
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 6 for i in range(6)])
    assert all(
        float(row[0, 0]) == pytest.approx(6 * sum(truth.small.values()), rel=1e-10) for row in rows
    )


@pytest.mark.parametrize("recompute", ["", "reentrant", "graph"])
def test_hooks_that_come_after_the_forward_pass(recompute: str) -> None:
    """Nothing was seen, which is said; and checkpointing, which recomputes with hooks, is not
    disturbed.
    """
    model, ids = make(lambda: LanguageModel(recompute=recompute)), torch.randint(20, (5, 8))
    model.loss(ids).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    probe = bound(model)
    lost = model.loss(ids)
    with probe.attach(dict(model.named_parameters()), keys_of(model)):
        probe.begin(5, 1.0)
        lost.backward()
        probe.end()
        assert probe.row() is None
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain, strict=True))
    assert probe.fault() == NOTHING_SEEN
    assert probe.coverage is not None and not probe.coverage.missing
    assert "before the hooks were there" in str(probe.refusal)


def test_vmap_in_a_forward_pass_is_not_disturbed() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(12, 9), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.vmap(self.inner)(x))

    model, x = make(Mapped), data(6, 12)
    probe = bound(model, min_coverage=0.01)
    for _ in range(2):  # hooks of layers, then calls
        assert step(probe, model, lambda: classify(model, x), 6) is None
    assert probe.coverage is not None
    assert {part.name for part in probe.coverage.missing} == {"inner.weight", "inner.bias"}
    assert step(probe, model, lambda: classify(model, x), 6) is not None


def test_an_abandoned_step_leaves_nothing() -> None:
    model, x = make(), data(6, 12)
    probe = bound(model, exact=True)
    with probe.attach(dict(model.named_parameters()), keys_of(model)):
        probe.begin(6, 1.0)
        classify(model, x)
        probe.end()
        assert probe.row() is None
        model.zero_grad()
        probe.begin(6, 1.0)
        classify(model, x).backward()
        probe.end()
        row = probe.row()
    truth = loop(model, [lambda i=i: classify(model, x[i : i + 1]) / 6 for i in range(6)])
    assert row is not None and probe.fault() is None
    assert float(row[0, 0]) == pytest.approx(6 * sum(truth.small.values()), rel=1e-10)


def test_pickling_keeps_the_settings() -> None:
    model, x = make(), data(6, 12)
    probe = bound(model, sketches=3, min_coverage=0.5)
    step(probe, model, lambda: classify(model, x), 6)
    copy = pickle.loads(pickle.dumps(probe))
    assert (copy.exact, copy.sketches, copy.min_coverage, copy.coverage) == (False, 3, 0.5, None)
    with pytest.raises(RuntimeError, match="bind"):
        copy.survey({})


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"exact": 1}, TypeError, "exact must be a bool"),
        ({"sketches": 1.5}, TypeError, "sketches must be an int"),
        ({"sketches": True}, TypeError, "sketches must be an int"),
        ({"sketches": 0}, ValueError, "sketches must be an int >= 1"),
        ({"sketches": 2, "exact": True}, ValueError, "1 with exact=True"),
        ({"min_coverage": "all"}, TypeError, "min_coverage must be a number"),
        ({"min_coverage": 0}, ValueError, r"min_coverage must lie in \(0, 1\]"),
    ],
)
def test_arguments(settings: Mapping[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Examples(**settings)  # type: ignore[arg-type]
