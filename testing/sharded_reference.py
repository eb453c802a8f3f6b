"""Gradients of a sharded run's micro-batches, recomputed whole in one process in fp64."""

import pytest
import torch

from lightning_noise.core.moments import from_contributions
from testing.toys import data

FOUR = [4, 4, 4, 4]  # sizes of the micro-batches of a step


def gradients(module, sizes):
    """By micro-batch in the order of the common stream, each parameter's gradient in fp64."""
    module = module.double()
    x, y = (t.double() for t in data(examples=400).dataset.tensors)
    found, at = [], 0
    for size in sizes:
        module.zero_grad(set_to_none=True)
        module.loss((x[at : at + size], y[at : at + size])).backward()
        named = module.named_parameters()
        found.append({name: p.grad.flatten() for name, p in named if p.grad is not None})
        at += size
    return found


def flat(by_name, layer=""):
    return torch.cat([g for name, g in by_name.items() if name.startswith(layer)])


def moments(module, sizes, layer=""):
    """Of the parameters below ``layer``, every micro-batch a group of equal weight."""
    groups = [flat(by_name, layer) for by_name in gradients(module, sizes)]
    weights = [1 / len(sizes)] * len(sizes)
    mean = sum(groups) / len(sizes)
    parts = [float((w * g) @ (w * g)) for g, w in zip(groups, weights, strict=True)]
    return from_contributions(parts, weights, sizes, float(mean @ mean))


def agree(found, wanted, rel=1e-6):
    assert found == pytest.approx(tuple(wanted), rel=rel)
