"""What cannot be right is refused by name, with the way out."""

import pickle
import re

import pytest
import torch
from torch import Tensor, nn

from lightning_noise.probes.examples import CoverageError, Examples, UnsupportedModelError
from testing.examples.oracle import bound_to_layers as bound
from testing.examples.oracle import keys_of, step


def test_batch_norm_in_train_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    words = r"BatchNorm in train mode ties the examples .*\(1\).*\. Or use GroupNorm"
    with pytest.raises(UnsupportedModelError, match=words):
        Examples().bind(model)
    model[1].eval()
    assert (
        bound(model).survey(dict(model.named_parameters())).missing[0].reason
        == "no rule for BatchNorm2d (1)"
    )
    x = torch.randn(5, 3, 4, 4)
    assert (
        step(bound(model, min_coverage=0.5), model, lambda: model(x).square().mean(), 5) is not None
    )


def test_batch_norm_without_statistics_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(UnsupportedModelError, match="BatchNorm"):
        Examples().bind(model)


def test_batch_norm_set_to_train_mode_in_mid_run_is_a_fault() -> None:
    model = nn.Sequential(nn.Linear(3, 20), nn.BatchNorm1d(20), nn.Linear(20, 20)).eval()
    probe, x = bound(model, min_coverage=0.1), torch.randn(5, 3)
    assert step(probe, model, lambda: model(x).square().mean(), 5) is not None
    model.train()
    assert step(probe, model, lambda: model(x).square().mean(), 5) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "batch_statistics"
    model.eval()
    assert step(probe, model, lambda: model(x).square().mean(), 5) is not None


def test_too_little_coverage_lists_what_is_missing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 8), nn.LSTMCell(1, 1))
    probe = bound(model)
    with (
        pytest.raises(CoverageError) as caught,
        probe.attach(dict(model.named_parameters()), keys_of(model)),
    ):
        pass
    text = str(caught.value)
    assert "min_coverage=0.9" in text and "register_rule" in text
    lstm = "1.weight_hh_l0, 1.weight_ih_l0, 1.bias_ih_l0, 1.bias_hh_l0 (448 parameters)"
    assert f"{lstm}: no rule for LSTM (1)" in text
    cell = "2.weight_ih, 2.weight_hh, 2.bias_ih, 2.bias_hh (16 parameters)"
    assert f"{cell}: no rule for LSTMCell (2)" in text
    assert caught.value.coverage.parameters == pytest.approx(
        20 / sum(p.numel() for p in model.parameters())
    )
    assert pickle.loads(pickle.dumps(caught.value)).coverage == caught.value.coverage


def test_nothing_covered_is_refused_whatever_the_least() -> None:
    with pytest.raises(CoverageError):
        bound(nn.LSTM(2, 2), min_coverage=1e-9).survey(dict(nn.LSTM(2, 2).named_parameters()))


def test_a_parameter_of_no_module_is_named() -> None:
    layer, stray = nn.Linear(9, 9), nn.Parameter(torch.ones(1))
    coverage = bound(layer).survey({**dict(layer.named_parameters()), "stray": stray})
    assert [(part.name, part.reason) for part in coverage.missing] == [
        ("stray", "no module of the model owns it")
    ]


def test_other_forwards_are_no_linear_layer() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    class Named(nn.Linear):
        pass

    patched = nn.Linear(3, 3)
    patched.forward = lambda x: nn.functional.linear(2 * x, patched.weight)  # type: ignore[method-assign]
    model = nn.ModuleDict({"doubled": Doubled(3, 3), "named": Named(3, 3), "patched": patched})
    coverage = bound(model, min_coverage=0.1).survey(dict(model.named_parameters()))
    reasons = {part.name: part.reason for part in coverage.missing if part.name.endswith("weight")}
    assert reasons == {
        "doubled.weight": "Doubled overrides the forward of Linear (doubled)",
        "patched.weight": "Linear overrides the forward of Linear (patched)",
    }


def test_embedding_scaled_by_frequency() -> None:
    model = nn.Embedding(4, 3, scale_grad_by_freq=True)
    with pytest.raises(CoverageError, match="scale_grad_by_freq ties the examples"):
        bound(model).survey(dict(model.named_parameters()))


class Unbatched(nn.Module):
    """A table of places without the batch dimension, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places, self.head = (
            nn.Embedding(30, 8),
            nn.Embedding(7, 8),
            nn.Linear(8, 30),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids) + self.places(torch.arange(ids.shape[1])))


@pytest.mark.parametrize("examples", [5, 7])
def test_a_layer_without_the_batch_along_dimension_0(examples: int) -> None:
    """Also where, by chance, there are as many positions as examples."""
    model = Unbatched()
    ids = torch.randint(30, (examples, 7))
    probe = bound(model, min_coverage=0.8)
    assert step(probe, model, lambda: model(ids).square().mean(), examples) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "parameters_left_out"
    assert re.search(r"places\.weight \(it.* \(places\)\)", fault.text)
    found = step(probe, model, lambda: model(ids).square().mean(), examples)
    assert found is not None and found["places.weight"] == (0, 0, 0, 0)
    assert probe.coverage is not None and [part.name for part in probe.coverage.missing] == [
        "places.weight"
    ]


def test_no_layer_has_the_batch_along_dimension_0() -> None:
    """Time first: nothing is dropped, as the announced size may be what is wrong."""
    layer, x = nn.Linear(4, 4), torch.randn(9, 5, 4)
    probe = bound(layer)
    assert step(probe, layer, lambda: layer(x).square().mean(), 5) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "batch_not_first"
    wanted = "no layer has the 5 examples of the batch along dimension 0 (found there: 9)"
    assert fault.text == wanted
    assert isinstance(probe.refusal, UnsupportedModelError) and "batch_size_fn" in str(
        probe.refusal
    )
    assert step(probe, layer, lambda: layer(x).square().mean(), 9) is not None
    assert probe.refusal is None


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 3), torch.randn(4)),
        (nn.Conv2d(3, 4, 2), torch.randn(3, 5, 5)),
        (nn.Embedding(4, 3), torch.tensor(2)),
        (nn.LayerNorm((4, 3)), torch.randn(4, 3)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_layer_called_without_a_batch_dimension(layer: nn.Module, x: Tensor) -> None:
    other = nn.Linear(40, 40)
    model = nn.ModuleList([layer, other])
    size = len(layer(x)) if layer(x).dim() else 1
    y = torch.randn(size, 40)
    probe = bound(model, min_coverage=0.5)
    assert (
        step(probe, model, lambda: layer(x).square().sum() + other(y).square().sum(), size) is None
    )
    assert probe.coverage is not None
    assert {part.name.split(".")[0] for part in probe.coverage.missing} == {"0"}


def compiled(kind: str) -> nn.Module:
    """A model whose second layer is compiled in one of the ways there are."""
    first, second = nn.Linear(30, 30), nn.Linear(30, 3)
    if kind == "module":
        second = torch.compile(second, backend="eager")
    elif kind == "in place":
        second.compile(backend="eager")
    else:

        class Method(nn.Linear):
            forward = torch.compile(nn.Linear.forward, backend="eager")

        second = Method(30, 3)
    return nn.Sequential(first, second)


@pytest.mark.parametrize("kind", ["module", "in place", "method"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_parts_are_named(kind: str) -> None:
    coverage = bound(model := compiled(kind)).survey(dict(model.named_parameters()))
    assert len(coverage.missing) == 2
    assert all("1" in part.reason and "torch.compile" in part.reason for part in coverage.missing)


def test_binding_something_else() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got str"):
        Examples().bind("model")  # type: ignore[arg-type]
