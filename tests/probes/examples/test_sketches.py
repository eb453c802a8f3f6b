"""Sketched norms are unbiased, with the spread that theory gives."""

import math
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_noise.probes.examples import Contribution, Form, Outer
from lightning_noise.probes.examples.directions import Directions
from lightning_noise.probes.examples.patches import Geometry, Patches
from testing.examples.layers import CASES, Case
from testing.examples.oracle import bound, contributions, forms_of, loop, losses, step


def draws_of(part: Contribution, form: Form, count: int, sketches: int = 1) -> torch.Tensor:
    """``count`` independent sketches of Σ_i |c_i|², each a mean of so many."""
    directions = Directions({"w": form.signs}, count * sketches, torch.device("cpu"))
    directions.begin(11, part.examples)
    squares = part.sketch(form, directions.signs("w")).square().sum((0, 2)) * (count * sketches)
    return squares.view(count, sketches).mean(1)


SKETCHED = [case for case in CASES if forms_of(case.build()[0])]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same'"
)  # torch's remark on even kernels


@pytest.mark.parametrize("case", SKETCHED, ids=lambda case: case.name)
def test_sketches_of_every_layer_are_unbiased(case: Case) -> None:
    layer, x = case.build()
    part = contributions(layer, x)[0]["weight"]
    truth = part.build(slice(0, len(x))).square().sum()
    for form in forms_of(layer)["weight"]:
        draws = draws_of(part, form, 400)
        assert abs(draws.mean() - truth) <= 4 * draws.std() / len(draws) ** 0.5 + 1e-9 * truth


@pytest.mark.parametrize("side", ["rows", "cols"])
@pytest.mark.parametrize("sketches", [1, 3])
def test_spread_on_a_fixed_matrix(side: str, sketches: int) -> None:
    grad, inputs = (
        torch.randn(1, 9, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        for n in (6, 4)
    )
    part = Outer(grad, inputs)
    matrix = part.build(slice(0, 1))[0]  # (6, 4)
    a = matrix @ matrix.T if side == "rows" else matrix.T @ matrix
    predicted = 2 * float((a @ a).trace() - a.diagonal().square().sum()) / sketches
    draws = draws_of(part, Form(side, len(a)), 4000, sketches)
    error = float((draws - draws.mean()).square().std()) / math.sqrt(len(draws))  # of the variance
    assert abs(float(draws.var()) - predicted) < 4 * error
    assert abs(float(draws.mean() - matrix.square().sum())) < 4 * math.sqrt(predicted / len(draws))


def test_a_step_is_unbiased_and_more_sketches_spread_less() -> None:
    case = Case(
        "spread", lambda: nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5)), (6, 10, 8)
    )
    model, x = case.build()
    whole, parts = losses(model, x)
    truth = sum(loop(model, parts).small.values()) * len(x)
    spreads = []
    for sketches in (1, 4):
        found = [
            step(bound(model, seed=seed, sketches=sketches), model, whole, len(x))
            for seed in range(80)
        ]
        draws = torch.tensor([one[""].q_small for one in found])
        assert abs(draws.mean() - truth) < 4 * draws.std() / len(draws) ** 0.5
        spreads.append(float(draws.var()))
    error = 2 * (2 / 80) ** 0.5  # of the logarithm of a ratio of two variances
    assert abs(math.log(spreads[0] / spreads[1] / 4)) < 4 * error / 2**0.5


def test_one_position_needs_no_sketch() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5)).double()
    x = torch.randn(6, 8, dtype=torch.float64)
    whole, parts = losses(model, x)
    found, truth = step(bound(model), model, whole, 6), loop(model, parts)
    assert found is not None
    assert found[""].q_small == pytest.approx(6 * sum(truth.small.values()), rel=1e-12)


@pytest.mark.parametrize("side", ["rows", "cols"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_kernels_of_one_point_are_sketched_where_they_look(
    side: Literal["rows", "cols"],
    stride: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No grid of the input's size is laid out, and the sketch is the projected gradient."""
    monkeypatch.setattr(Patches, "_on_input_grid", None)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=generator)
    kernel = torch.ones(4, 3, 1, 1, dtype=torch.float64)
    grad = torch.randn_like(functional.conv2d(inputs, kernel, None, stride, groups=2))
    part = Patches(grad, inputs, Geometry((1, 1), stride, (1, 1), (0, 0), (0, 0), 2))
    form = Form(side, 4 if side == "rows" else 6)
    directions = Directions({"weight": form.signs}, 1, torch.device("cpu"))
    directions.begin(0, 2)
    signs = directions.signs("weight")
    built = part.build(slice(0, 2)).view(2, 2, 2, 3)  # (B, groups, C_out, C_in)
    by_group = signs.dense(torch.float64).view(2, 2, -1)
    equation = "bgoc,bgo->bgc" if side == "rows" else "bgoc,bgc->bgo"
    projected = torch.einsum(equation, built, by_group)
    assert torch.allclose(part.sketch(form, signs).view_as(projected), projected, rtol=1e-12)
