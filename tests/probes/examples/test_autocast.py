"""Half precision: sketches in fp32, gradients bit for bit the same, one copy of the inputs kept, a
scaler's overflow.
"""

import pytest
import torch
from torch import Tensor, nn

from lightning_noise.probes.examples import precision
from testing.examples.models import LanguageModel, resnet
from testing.examples.oracle import bound, loop, step
from testing.old_torch import saving_hooks

DTYPES = [torch.bfloat16, torch.float16]


def lowered(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype=dtype):
        out = model(x)
    return out.float().square().flatten(1).mean(1).mean()


def problem(kind: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        if kind == "resnet":
            return resnet(), torch.randn(6, 3, 8, 8)
        return LanguageModel(), torch.randint(20, (6, 7))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["language model", "resnet"])
def test_the_norms_are_those_of_the_half_gradients(kind: str, dtype: torch.dtype) -> None:
    model, x = problem(kind)
    probe = bound(model, exact=True)
    found = step(probe, model, lambda: lowered(model, x, dtype), 6)
    truth = loop(model, [lambda i=i: lowered(model, x[i : i + 1], dtype) / 6 for i in range(6)])
    wanted = truth.moments(6, list(truth.small))
    assert found is not None, probe.fault()
    assert probe.coverage is not None and not probe.coverage.missing
    assert found[""].q_small == pytest.approx(wanted.q_small, rel=0.02)
    assert found[""].noise == pytest.approx(wanted.noise, rel=0.03)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["language model", "resnet"])
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_products_in_half_precision(
    kind: str, dtype: torch.dtype, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on devices that sum them in fp32: the same signs, the same sketches but for rounding."""
    model, x = problem(kind)
    whole = lambda: scale * lowered(model, x, dtype)  # noqa: E731
    probe = bound(model, seed=5)
    in_float = step(probe, model, whole, 6)
    monkeypatch.setattr(precision, "SUMS_HALF_IN_FLOAT", {"cpu"})
    in_half = step(bound(model, seed=5), model, whole, 6)
    assert in_float is not None and in_half is not None
    for name, moments in in_half.items():
        assert moments.q_small == pytest.approx(
            in_float[name].q_small, rel=0.02, abs=1e-4 * in_float[""].q_small
        )
    assert in_half[""].q_small == pytest.approx(in_float[""].q_small, rel=0.002)
    assert in_half[""].q_small != in_float[""].q_small


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["language model", "resnet"])
def test_gradients_are_bit_for_bit_the_same(kind: str, dtype: torch.dtype) -> None:
    model, x = problem(kind)
    lowered(model, x, dtype).backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert step(bound(model), model, lambda: lowered(model, x, dtype), 6) is not None
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain, strict=True))


@saving_hooks
def test_one_copy_of_an_input_is_kept() -> None:
    layer, x, packed = nn.Linear(6, 3), torch.randn(4, 6), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append((t.dtype, t.data_ptr())) or t, lambda t: t
    ):
        assert step(bound(layer), layer, lambda: lowered(layer, x, torch.bfloat16), 4) is not None
    inputs = [pointer for dtype, pointer in packed if dtype == torch.bfloat16]
    assert x.data_ptr() not in [pointer for _, pointer in packed]
    assert any(inputs.count(pointer) == 2 for pointer in inputs)  # autograd's and ours


def test_a_changed_input_that_autocast_copied() -> None:
    """Legal under autocast: the layer's gradient needs the copy alone."""
    layer = nn.Linear(6, 6)
    x = torch.randn(4, 6)

    def whole() -> Tensor:
        y = x * 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(y)
        y.add_(1)
        return out.float().square().mean()

    assert step(bound(layer), layer, whole, 4) is not None


def test_backward_inside_autocast() -> None:
    model, x = problem("language model")
    outside = step(bound(model), model, lambda: lowered(model, x, torch.bfloat16), 6)
    probe = bound(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(probe, model, lambda: model(x).float().square().mean(), 6)
    assert found is not None and outside is not None
    # bfloat16 has steps of 2**-8
    assert found[""].q_small == pytest.approx(outside[""].q_small, rel=2**-6)
    assert found[""].q_big == pytest.approx(outside[""].q_big, rel=2**-6)
    assert probe.coverage is not None and not probe.coverage.missing


def test_a_model_in_half_precision() -> None:
    model, x = problem("language model")
    model.bfloat16()
    probe = bound(model, exact=True)
    found = step(probe, model, lambda: model(x).float().square().mean(), 6)
    assert found is not None, probe.fault()
    assert found[""].is_finite


@pytest.mark.parametrize("scale", [2.0**4, 2.0**16])
def test_a_loss_scale(scale: float) -> None:
    model, x = problem("language model")
    plain = step(bound(model), model, lambda: lowered(model, x, torch.float16), 6)
    scaled = step(bound(model), model, lambda: scale * lowered(model, x, torch.float16), 6)
    assert plain is not None and scaled is not None
    assert scaled[""].q_small / scale**2 == pytest.approx(plain[""].q_small, rel=0.02)


def test_an_overflow_is_not_finite_and_drops_nothing() -> None:
    model, x = problem("language model")
    probe = bound(model)
    found = step(probe, model, lambda: 2.0**40 * lowered(model, x, torch.float16), 6)
    assert found is not None and not found[""].is_finite
    assert probe.coverage is not None and not probe.coverage.missing
    found = step(probe, model, lambda: lowered(model, x, torch.float16), 6)
    assert found is not None and found[""].is_finite
