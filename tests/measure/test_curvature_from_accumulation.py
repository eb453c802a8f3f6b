import math

import numpy as np
import pytest
import torch

from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.probes.second_derivatives import hessian_forms, inner
from testing.exact import Population


def one_step(population, batches, groups, scale, size_of=len):
    """Accumulates as Lightning does, every loss times ``scale``, and takes the curvature through
    the last loss.
    """
    module, parameters = population.module, list(population.module.parameters())
    module.zero_grad()
    window = Accumulated(parameters, groups)
    for _ in range(groups):
        batch = next(batches)
        (population.loss(module, batch) * scale).backward()
        window.add(size_of(batch[1]))
    loss = population.loss(module, next(batches)) * scale
    return window, window.probe(hessian_forms(loss, parameters, window.vectors()) / scale, scale)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 4])
def test_unbiased_against_the_exact_hessian(groups):
    population, truth = Population(), Population().truth()
    batches, draws = iter(population.batches(6)), []
    for _ in range(500):
        _, probe = one_step(population, batches, groups, 1 / 3)
        draws.append(
            (
                probe.euclidean.signal,
                probe.euclidean.noise,
                probe.moments.signal,
                probe.moments.noise,
            )
        )
    error = np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    assert np.all(np.abs(np.mean(draws, axis=0) - truth[2:]) < 4 * error)


def test_contrasts_come_from_the_accumulating_gradient():
    """Unequal micro-batches, against gradients taken one by one."""
    population, sizes = Population(), [3, 5, 2]
    draws = iter(population.batches(6))
    batches = [(x[:size], y[:size]) for size, (x, y) in zip([*sizes, 6], draws, strict=False)]
    parameters = list(population.module.parameters())
    window, probe = one_step(population, iter(batches), 3, 0.25)
    gradients = [
        torch.autograd.grad(population.loss(population.module, b), parameters) for b in batches
    ]
    rows = [[math.cos(math.pi * (i + 0.5) * j / 3) for i in range(3)] for j in (1, 2)]
    for row, contrast in zip(rows, window.vectors()[1:], strict=True):
        for place, got in enumerate(contrast):
            want = sum(s * g[place] for s, g in zip(row, gradients, strict=False))
            assert torch.allclose(got, 0.25 * want, rtol=1e-9, atol=1e-12)
    mean = [sum(g[place] for g in gradients[:3]) / 3 for place in range(len(parameters))]
    assert probe.euclidean.q_big == pytest.approx(float(inner(mean, mean)), rel=1e-9)
    assert probe.euclidean.c_big == pytest.approx(sum(1 / b for b in sizes) / 9, rel=1e-12)


def test_the_loss_scale_does_not_matter():
    population = Population()
    batches = [b for _, b in zip(range(4), population.batches(6), strict=False)]
    plain, scaled = (one_step(population, iter(batches), 3, s)[1] for s in (1.0, 2.0**12))
    assert np.allclose(
        [*plain.moments, *plain.euclidean], [*scaled.moments, *scaled.euclidean], rtol=1e-9
    )


def test_sparse_and_absent_gradients():
    table, unused = torch.nn.Embedding(5, 2, sparse=True), torch.nn.Parameter(torch.ones(3))
    window = Accumulated([table.weight, unused], 2)
    for ids in ([0, 1], [1, 3]):
        table(torch.tensor(ids)).square().sum().backward()
        window.add(2)
    assert window.is_complete and unused.grad is None
    total, contrast = window.vectors()
    w = table.weight.detach()
    first, second = (
        2 * w * torch.tensor([1, 1, 0, 0, 0.0])[:, None],
        2 * w * torch.tensor([0, 1, 0, 1, 0.0])[:, None],
    )
    assert torch.allclose(total[0], first + second) and total[1].tolist() == [0, 0, 0]
    assert torch.allclose(contrast[0], math.sqrt(0.5) * (first - second), atol=1e-5)
