"""Whatever adds to a gradient outside of the layers' calls is caught at the first step, named and
left out.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from lightning_noise.core.moments import Key
from lightning_noise.probes.examples import CoverageError, Examples, checks
from testing.examples.models import mlp
from testing.examples.oracle import Loss, loop, step
from testing.examples.oracle import bound_to_layers as bound


def classify(model: nn.Module, x: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), x.abs().sum(1).long() % 5, reduction="sum")


def problem(
    model: nn.Module, extra: Callable[[nn.Module], Tensor] | None = None
) -> tuple[Loss, list[Loss]]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        x = torch.randn(6, 12, dtype=torch.float64)

    def part(rows: slice) -> Loss:
        return lambda: (
            classify(model, x[rows]) / 6
            + (extra(model) * len(x[rows]) / 6 if extra is not None else 0)
        )

    return part(slice(None)), [part(slice(i, i + 1)) for i in range(6)]


def make(build: Callable[[], nn.Module] = mlp) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build().double()


def assert_excluded(model: nn.Module, whole: Loss, parts: list[Loss], names: set[str]) -> Examples:
    """The first step says what is left out; the second gives the moments of the rest, exactly."""
    probe = bound(model, exact=True, min_coverage=0.01)
    assert step(probe, model, whole, 6) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "parameters_left_out"
    assert all(name in fault.text for name in names)
    found, truth = step(probe, model, whole, 6), loop(model, parts)
    assert found is not None and probe.coverage is not None
    assert {part.name for part in probe.coverage.missing} == names
    wanted = truth.moments(6, [name for name in truth.small if name not in names])
    assert found[""].noise == pytest.approx(wanted.noise, rel=1e-9)
    assert found[""].signal == pytest.approx(wanted.signal, rel=1e-9)
    assert probe.coverage.grad_sq == pytest.approx(wanted.q_big / sum(truth.big.values()), rel=1e-9)
    return probe


def test_weight_penalty() -> None:
    model = make()
    assert_excluded(model, *problem(model, lambda m: m[2].weight.square().sum()), {"2.weight"})


def test_functional_use_of_a_weight() -> None:
    class Reuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(functional.linear(self.inner(x).tanh(), self.inner.weight))

    model = make(Reuses)
    assert_excluded(model, *problem(model), {"inner.weight"})


def test_forward_called_past_the_hooks() -> None:
    class Bypasses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner.forward(x).tanh())

    model = make(Bypasses)
    assert_excluded(model, *problem(model), {"inner.weight", "inner.bias"})


def test_a_gradient_penalty() -> None:
    """Its part in the weights' gradient does not go through the layers' outputs alone."""
    model = make(lambda: nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5)))
    x = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)

    def whole() -> Tensor:
        lost = classify(model, x)
        (slope,) = torch.autograd.grad(lost, x, create_graph=True)
        return lost / 6 + slope.square().sum() / 6

    probe = bound(model, exact=True, min_coverage=0.01)
    assert step(probe, model, whole, 6) is None
    assert probe.coverage is not None
    assert {"0.weight", "2.weight"} <= {part.name for part in probe.coverage.missing}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weight_norm(old: bool) -> None:
    model = make(lambda: nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5)))
    (torch.nn.utils.weight_norm if old else weight_norm)(model[2])
    probe = bound(model, exact=True, min_coverage=0.01)
    whole, parts = problem(model)
    found, truth = step(probe, model, whole, 6), loop(model, parts)
    assert found is not None and probe.coverage is not None
    missing = {part.name for part in probe.coverage.missing}
    assert missing == (
        {"2.weight_g", "2.weight_v"}
        if old
        else {f"2.parametrizations.weight.original{i}" for i in (0, 1)}
    )
    assert found[""].noise == pytest.approx(
        truth.moments(6, [n for n in truth.small if n not in missing]).noise, rel=1e-9
    )


def test_too_little_is_a_refusal_with_the_list() -> None:
    model = make()
    whole, _ = problem(model, lambda m: m[2].weight.square().sum())
    probe = bound(model, min_coverage=0.9)
    assert step(probe, model, whole, 6) is None
    assert isinstance(probe.refusal, CoverageError)
    assert "2.weight (400 parameters): its gradient is not the sum" in str(probe.refusal)
    assert step(probe, model, whole, 6) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "low_coverage"


def test_what_appears_later_is_caught_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_EVERY", 3)
    model = make()
    plain, _ = problem(model)
    penalised, _ = problem(model, lambda m: m[2].weight.square().sum())
    probe = bound(model, min_coverage=0.01)
    found = [
        step(probe, model, loss, 6) is not None
        for loss in (plain, penalised, penalised, penalised, penalised)
    ]
    assert found == [True, True, True, False, True]


def test_an_overflow_puts_the_check_off() -> None:
    model = make()
    plain, _ = problem(model)
    penalised, _ = problem(model, lambda m: m[2].weight.square().sum())
    probe = bound(model, min_coverage=0.01)
    overflown = step(probe, model, lambda: plain() * torch.inf, 6)
    assert overflown is not None and not overflown[""].is_finite
    assert step(probe, model, penalised, 6) is None
    fault = probe.fault()
    assert fault is not None and fault.code == "parameters_left_out" and "2.weight" in fault.text


def test_a_gradient_that_is_all_rounding_is_no_mismatch() -> None:
    """The bias of an attention key has no gradient but rounding."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(
                self.query(x), self.key(x), self.value(x)
            )

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, x = Attention(), torch.randn(8, 20, 12)
    probe = bound(model)
    assert step(probe, model, lambda: model(x).square().mean(), 8) is not None
    assert probe.coverage is not None and not probe.coverage.missing


def test_the_check_reads_the_device_once_in_a_thousand_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, reads = make(), []
    whole, _ = problem(model)
    probe, parameters = bound(model), dict(model.named_parameters())
    with probe.attach(parameters, {Key(): list(parameters)}):
        for number in range(3):
            if number == 1:
                for name in ("item", "tolist", "__bool__", "__float__"):
                    kept = getattr(Tensor, name)
                    monkeypatch.setattr(
                        Tensor, name, lambda *a, kept=kept: reads.append(1) or kept(*a)
                    )
            probe.begin(6, 1.0)
            whole().backward()
            probe.end()
            assert probe.row() is not None
    monkeypatch.undo()
    assert not reads
