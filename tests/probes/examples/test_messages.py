"""What users read: the fix first, no words of another floor, one line per kind of reason."""

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.probes.examples import CoverageError, Examples, UnsupportedModelError
from testing.examples.oracle import bound_to_layers as bound
from testing.examples.oracle import step

FIX = "Accumulate gradients over two micro-batches or more, each of half the batch size: "
OF_LIGHTNING = ("Trainer", "accumulate_grad_batches", "GradientNoiseScale", "Monitor")


def refusals() -> dict[str, UnsupportedModelError]:
    coupled = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    uncovered = nn.LSTM(2, 2)
    found = {}
    with pytest.raises(UnsupportedModelError) as caught:
        Examples().bind(coupled)
    found["batch norm"] = caught.value
    with pytest.raises(CoverageError) as caught:
        bound(uncovered).survey(dict(uncovered.named_parameters()))
    found["coverage"] = caught.value
    return found


@pytest.mark.parametrize("name", ["batch norm", "coverage"])
def test_a_refusal_begins_with_the_fix_and_speaks_no_lightning(name: str) -> None:
    text = str(refusals()[name])
    assert text.startswith(FIX)
    assert not any(word in text for word in OF_LIGHTNING)


def test_too_little_coverage_names_the_argument() -> None:
    text = str(refusals()["coverage"])
    assert "covers less than min_coverage=0.9 of the model: 0.0% of the parameters\n" in text
    others = "Or add rules with register_rule, or measure the covered part alone with "
    assert text.endswith(f"\n{others}Examples(min_coverage=…).")


@pytest.mark.parametrize("name", ["batch norm", "coverage"])
def test_refusals_survive_pickling(name: str) -> None:
    error = refusals()[name]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.skip) == (str(error), error.skip)


def test_a_batch_norm_of_many_names_five() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(7)))
    with pytest.raises(UnsupportedModelError, match=r"\(0, 1, 2, 3, 4 and 2 more\)"):
        Examples().bind(model)


def test_a_class_that_only_shares_a_known_name_is_printed_with_its_module() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    model = nn.ModuleDict({"mine": Linear(), "norm": LayerNorm(3), "other": nn.Linear(9, 9)})
    missing = bound(model, min_coverage=0.1).survey(dict(model.named_parameters())).missing
    reasons = {part.name: part.reason for part in missing}
    here = f"{__name__}.test_a_class_that_only_shares_a_known_name_is_printed_with_its_module"
    assert reasons["mine.weight"] == f"no rule for {here}.<locals>.Linear (mine)"
    overrides = "overrides the forward of LayerNorm (norm)"
    assert reasons["norm.weight"] == f"{here}.<locals>.LayerNorm {overrides}"


class Bypasses(nn.Module):
    """Its first layer is called past the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.linear(x, self.inner.weight, self.inner.bias).tanh())


def test_a_layer_without_a_call_is_not_off_by_100_percent() -> None:
    model, x = Bypasses(), torch.randn(6, 12)
    probe = bound(model, min_coverage=0.01)
    assert step(probe, model, lambda: model(x).square().mean(), 6) is None
    why = "no call of its layer was seen, as a function uses it or forward was called directly"
    fault = probe.fault()
    assert fault is not None
    assert fault.text == f"left out from the next step on: inner.weight, inner.bias ({why})"


def test_a_gradient_that_is_partly_seen_says_by_how_much_it_is_off() -> None:
    layer, x = nn.Linear(4, 1, bias=False), torch.ones(3, 4)
    layer.weight.data.fill_(1.0)
    probe = bound(layer, min_coverage=0.01)
    loss = lambda: layer(x).mean() + layer.weight.square().sum() / 2  # noqa: E731
    assert step(probe, layer, loss, 3) is None
    fault = probe.fault()
    assert fault is not None
    assert "weight (its gradient is not the sum over the examples" in fault.text
    assert fault.text.endswith("(off by 50.0%))")


def test_sixteen_parameters_of_one_kind_are_one_line() -> None:
    layers = {"lstm": nn.LSTM(3, 4, 4), "norm": nn.PReLU(7), "head": nn.Linear(90, 90)}
    model = nn.ModuleDict(layers)
    probe = bound(model, min_coverage=0.5)
    probe.survey(dict(model.named_parameters()))
    assert len(list(model["lstm"].parameters())) == 16
    covered, lstm, norm = probe.remarks()
    assert covered == "the estimate covers 92.8% of the parameters"
    assert lstm.startswith("left out: lstm.weight_hh_l0, lstm.weight_ih_l1, ")
    assert lstm.endswith(" and 11 more (no rule for LSTM (lstm))")
    assert norm == "left out: norm.weight (no rule for PReLU (norm))"


def test_a_kind_with_several_layers_names_none_of_them() -> None:
    model = nn.ModuleDict({"a": nn.PReLU(2), "b": nn.PReLU(3), "head": nn.Linear(90, 90)})
    probe = bound(model)
    probe.survey(dict(model.named_parameters()))
    assert probe.remarks()[1:] == ["left out: b.weight, a.weight (no rule for PReLU)"]


def test_where_all_is_seen_and_checked_there_is_no_remark() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 4)
    probe = bound(model)
    assert probe.remarks() == []
    with probe.attach(dict(model.named_parameters()), {}):
        probe.begin(5, 1.0)
        loss = model(x).square().mean()
        probe.watch_loss(loss)
        loss.backward()
        probe.end()
        probe.row()
    assert probe.remarks() == []


def test_doubts_and_what_was_not_checked_are_one_line_each() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), torch.randn(5, 5, 4)
    probe = bound(model)
    step(probe, model, lambda: model(x).square().mean(), 5)
    doubt, unchecked = probe.remarks()
    assert doubt.startswith("layers with as many positions as the batch has examples (1, 0): ")
    what = "not checked whether the examples of a batch mix"
    assert unchecked.startswith(f"{what} (layers and loss: ")
