"""Whole models: trace and grad_sq are the loop's, exactly without sketches and in the mean with
them.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.examples.models import LanguageModel, Vision, mlp, resnet
from testing.examples.oracle import Loss, assert_agrees, bound, loop, step


class Problem(NamedTuple):
    """A model in fp64 and the loss of any of its examples, summed."""

    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    total: Callable[[nn.Module, Tensor], Tensor]

    def build(self) -> tuple[nn.Module, Loss, list[Loss]]:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            model = self.make().double()
            tokens = len(self.inputs) == 2 and hasattr(model, "table")
            x = (
                torch.randint(20, self.inputs)
                if tokens
                else torch.randn(self.inputs, dtype=torch.float64)
            )
        size = len(x)

        def part(rows: slice) -> Loss:
            return lambda: self.total(model, x[rows]) / size

        return model, part(slice(None)), [part(slice(i, i + 1)) for i in range(size)]


def classify(model: nn.Module, x: Tensor) -> Tensor:
    """Cross-entropy with labels that follow from the data."""
    return functional.cross_entropy(model(x), x.flatten(1).abs().sum(1).long() % 5, reduction="sum")


def predict(model: nn.Module, ids: Tensor) -> Tensor:
    return model.loss(ids)  # type: ignore[operator, no-any-return]


PROBLEMS = [
    Problem("mlp", mlp, (6, 12), classify),
    Problem("resnet", resnet, (4, 3, 8, 8), classify),
    Problem("language model, tied", LanguageModel, (5, 8), predict),
    Problem(
        "language model, reentrant", lambda: LanguageModel(recompute="reentrant"), (5, 8), predict
    ),
    Problem(
        "language model, recomputed", lambda: LanguageModel(recompute="graph"), (5, 8), predict
    ),
    Problem(
        "language model, 3 M",
        lambda: LanguageModel(width=256, layers=4, length=12),
        (3, 13),
        predict,
    ),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_exact(problem: Problem) -> None:
    model, whole, parts = problem.build()
    probe = bound(model, exact=True)
    found = step(probe, model, whole, len(parts))
    assert_agrees(found, loop(model, parts), len(parts), tolerance=1e-9)
    assert probe.coverage is not None
    assert probe.coverage.parameters == 1
    assert probe.coverage.grad_sq == 1


@pytest.mark.parametrize("problem", PROBLEMS[1:-1], ids=lambda problem: problem.name)
def test_sketched_in_the_mean(problem: Problem) -> None:
    model, whole, parts = problem.build()
    truth = loop(model, parts).moments(len(parts), [name for name, _ in model.named_parameters()])
    found = [step(bound(model, seed=seed), model, whole, len(parts)) for seed in range(60)]
    for field in ("noise", "signal", "q_big"):
        draws = torch.tensor(
            [getattr(one[""], field) for one in found if one is not None], dtype=torch.float64
        )
        assert len(draws) == 60
        assert (
            abs(draws.mean() - getattr(truth, field))
            <= 4 * draws.std() / 60**0.5 + 1e-9 * truth.q_big
        )


def test_a_large_sketched_model_spreads_little() -> None:
    model, whole, parts = PROBLEMS[-1].build()
    truth = loop(model, parts).moments(len(parts), [name for name, _ in model.named_parameters()])
    draws = torch.tensor(
        [step(bound(model, seed=seed), model, whole, len(parts))[""].q_small for seed in range(4)]
    )
    assert (
        draws / truth.q_small - 1
    ).abs().max() < 0.4  # relative s.d. about 10 % with three examples


def test_raw_parameters_are_named_and_leave_both_norms() -> None:
    model, whole, parts = Problem("vit", Vision, (4, 3, 8, 8), classify).build()
    probe = bound(model, exact=True, min_coverage=0.5, calls=False)
    found = step(probe, model, whole, 4)
    truth = loop(model, parts)
    assert probe.coverage is not None and found is not None
    assert {part.name for part in probe.coverage.missing} == {"token", "places"}
    assert 0.9 < probe.coverage.parameters < 1
    seen = [name for name in truth.small if name not in ("token", "places")]
    assert probe.coverage.grad_sq == pytest.approx(
        sum(truth.big[name] for name in seen) / sum(truth.big.values()), rel=1e-9
    )
    wanted = truth.moments(4, seen)
    assert found[""].noise == pytest.approx(wanted.noise, rel=1e-9)
    assert found[""].signal == pytest.approx(wanted.signal, rel=1e-9)
    assert found["token"] == (0, 0, 0, 0)
