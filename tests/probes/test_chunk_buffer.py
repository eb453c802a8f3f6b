"""Norms of gradients that come again in every pass, in memory that is allocated once."""

import pytest
import torch
from torch import nn

from lightning_noise.core.moments import Key
from lightning_noise.probes.chunk_buffer import ChunkBuffer
from lightning_noise.probes.keyed_norms import KeyedNorms
from lightning_noise.probes.norms import CHUNK
from lightning_noise.probes.small import SMALL

SIZES = {"a": 3 * CHUNK, "b": 2 * CHUNK + 5, "c": 7}


def parameters(dtype=torch.float32):
    return {name: nn.Parameter(torch.zeros(size, dtype=dtype)) for name, size in SIZES.items()}


def square(norms):
    return float(norms.double().square().sum())


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_the_squares_are_those_of_the_gradients(kind):
    buffer = ChunkBuffer(parameters())
    gradients = {name: torch.randn(size).to(kind) for name, size in SIZES.items()}
    assert all(buffer.see(name, gradient) for name, gradient in gradients.items())
    wanted = sum(square(gradient) for gradient in gradients.values())
    assert square(buffer.norms) == pytest.approx(wanted, rel=1e-6)


def test_what_was_seen_in_another_pass_does_not_count():
    buffer = ChunkBuffer(parameters())
    for name, size in SIZES.items():
        buffer.see(name, torch.ones(size))
    first = buffer.norms.data_ptr()
    buffer.clear()
    assert buffer.is_empty
    buffer.see("b", torch.full((SIZES["b"],), 2.0))
    assert square(buffer.norms) == pytest.approx(4.0 * SIZES["b"])
    assert buffer.norms.data_ptr() == first


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(SIZES["a"]).to_sparse(),
        torch.ones(SIZES["a"] + 1),
        torch.ones(SIZES["a"], dtype=torch.complex64),
        torch.ones(SIZES["a"], dtype=torch.float64),
        torch.ones(SIZES["a"], device="meta"),
    ],
    ids=["sparse", "size", "complex", "precision", "device"],
)
def test_a_gradient_of_another_form_is_left_to_others(other):
    buffer = ChunkBuffer(parameters())
    assert buffer.see("b", torch.ones(SIZES["b"]))
    assert not buffer.see("a", other)
    assert square(buffer.norms) == pytest.approx(SIZES["b"])


def test_a_second_gradient_in_a_pass_adds_to_the_first():
    weight = nn.Parameter(torch.zeros(SMALL + 3))
    norms = KeyedNorms({"w": weight}, {Key(): ["w"]})
    for value in (1.0, 3.0):
        norms.see("w", torch.full((SMALL + 3,), value))
    assert float(norms.total()) == pytest.approx(10.0 * (SMALL + 3))
    assert float(norms.total()) == 0.0
