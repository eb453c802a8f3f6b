"""Every rule against the loop, exactly; and each sketch against its rule's own gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_noise.probes.examples.contribution import Dense, Form
from lightning_noise.probes.examples.directions import Directions
from testing.examples.layers import CASES, Case
from testing.examples.oracle import (
    assert_agrees,
    bound,
    contributions,
    forms_of,
    loop,
    losses,
    step,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same'"
)  # torch's remark on even kernels


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exact_norms_are_the_loops(case: Case) -> None:
    layer, x = case.build()
    whole, parts = losses(layer, x)
    found = step(bound(layer, exact=True), layer, whole, len(x))
    assert_agrees(found, loop(layer, parts), len(x))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_built_gradients_norms_and_totals_agree(case: Case) -> None:
    layer, x = case.build()
    parts, grad = contributions(layer, x)
    out = layer(x)
    for name, parameter in layer.named_parameters():
        part = parts[name]
        built = part.build(slice(0, len(x)))
        for i in range(len(x)):
            (truth,) = torch.autograd.grad(out[i], parameter, grad[i], retain_graph=True)
            truth = truth.to_dense() if truth.is_sparse else truth
            torch.testing.assert_close(built[i], truth, rtol=1e-10, atol=1e-10)
        total = part.total()
        assert total.is_sparse == getattr(layer, "sparse", False)
        torch.testing.assert_close(total.to_dense(), built.sum(0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(part.build(slice(1, 2)), built[1:2])
        squares = sum(norm.square().sum() for norm in part.norms())
        torch.testing.assert_close(squares, built.square().sum(), rtol=1e-10, atol=0)


SKETCHED = [case for case in CASES if forms_of(case.build()[0])]


@pytest.mark.parametrize("case", SKETCHED, ids=lambda case: case.name)
def test_each_form_is_the_projection_of_the_built_gradients(case: Case) -> None:
    layer, x = case.build()
    parts, _ = contributions(layer, x)
    for name, forms in forms_of(layer).items():
        built = parts[name].build(slice(0, len(x)))
        groups = getattr(layer, "groups", 1)
        matrix = built.reshape(
            len(x), groups, built.shape[1] // groups, -1
        )  # (B, groups, rows, cols)
        for form in forms:
            directions = Directions({name: form.signs}, 3, torch.device("cpu"))
            directions.begin(7, len(x))
            signs = directions.signs(name)
            dense = signs.dense(torch.float64).view(len(x), 3, groups, -1)
            along = "bmgr,bgrc->bgmc" if form.side == "rows" else "bmgc,bgrc->bgmr"
            wanted = torch.einsum(along, dense, matrix)
            torch.testing.assert_close(
                parts[name].sketch(form, signs).reshape(wanted.shape),
                wanted,
                rtol=1e-10,
                atol=1e-10,
            )


def test_forms_run_along_the_smaller_side() -> None:
    assert forms_of(nn.Linear(4, 9))["weight"][0] == Form("cols", 4)
    assert forms_of(nn.Linear(9, 4))["weight"][0] == Form("rows", 4)


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_noise.probes.examples import contribution

    monkeypatch.setattr(contribution, "BUILT_AT_ONCE", 40)
    for case in CASES:
        layer, x = case.build()
        parts, _ = contributions(layer, x)
        for part in parts.values():
            built = part.build(slice(0, len(x)))
            squares = sum(norm.square().sum() for norm in part.norms())
            torch.testing.assert_close(squares, built.square().sum(), rtol=1e-10, atol=0)
            assert isinstance(part, Dense) or part.total().shape == built.shape[1:]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    lead=st.lists(st.integers(1, 4), max_size=3),
    examples=st.integers(2, 4),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    bias=st.booleans(),
)
def test_any_linear(lead: list[int], examples: int, inputs: int, outputs: int, bias: bool) -> None:
    case = Case("any", lambda: nn.Linear(inputs, outputs, bias=bias), (examples, *lead, inputs))
    layer, x = case.build()
    whole, parts = losses(layer, x)
    assert_agrees(
        step(bound(layer, exact=True), layer, whole, examples), loop(layer, parts), examples
    )


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Any convolution whose output is not empty."""
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    groups, kernel, dilation = draw(st.integers(1, 2)), each(1, 3), each(1, 2)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    named = draw(st.sampled_from(["", "same", "valid"]))
    stride = (1,) * dims if named == "same" else each(1, 3)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    space = [draw(st.integers(r + 1, r + 4)) for r in reach]
    padding = named or tuple(draw(st.integers(0, min(2, n - 1))) for n in space)
    inputs, outputs = groups * draw(st.sampled_from([1, 2, 9])), groups * draw(st.integers(1, 2))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    options = (kernel, stride, padding, dilation, groups, draw(st.booleans()), mode)
    return Case(
        "any", lambda: kind(inputs, outputs, *options), (draw(st.integers(2, 3)), inputs, *space)
    )


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(case=convolutions(), exact=st.booleans())
def test_any_convolution(case: Case, exact: bool) -> None:
    layer, x = case.build()
    whole, parts = losses(layer, x)
    truth = loop(layer, parts)
    if exact:
        assert_agrees(step(bound(layer, exact=True), layer, whole, len(x)), truth, len(x))
        return
    for form in forms_of(layer)["weight"]:
        built = contributions(layer, x)[0]["weight"]
        directions = Directions({"weight": form.signs}, 1, torch.device("cpu"))
        directions.begin(5, len(x))
        signs = directions.signs("weight").dense(torch.float64).view(len(x), layer.groups, -1)
        matrix = built.build(slice(0, len(x))).reshape(
            len(x), layer.groups, layer.out_channels // layer.groups, -1
        )
        along = "bgr,bgrc->bgc" if form.side == "rows" else "bgc,bgrc->bgr"
        wanted = torch.einsum(along, signs, matrix)
        found = built.sketch(form, directions.signs("weight"))
        torch.testing.assert_close(found.reshape(wanted.shape), wanted, rtol=1e-10, atol=1e-10)
