import math
from itertools import islice

import numpy as np
import pytest
import torch

from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.probes.second_derivatives import hessian_forms, inner
from testing.exact import Population


def probes(population, geometries, *, pairs, size, count, **arguments):
    parameters = list(population.module.parameters())
    pause = Pause(
        lambda batch: population.loss(population.module, batch), parameters, geometries, **arguments
    )
    batches = (Batch(b, len(b[1])) for b in population.batches(size))
    return [pause.probe(batches, pairs) for _ in range(count)]


def both(probe):
    return probe.flat["euclidean"], probe.curved["hessian"].moments


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "size"), [(1, 4), (4, 2)])
def test_unbiased_against_the_exact_hessian_of_three_layers(pairs, size):
    population = Population()
    truth = population.truth()
    found = probes(population, ("euclidean", "hessian"), pairs=pairs, size=size, count=600 // pairs)
    draws = np.array([(m.signal, m.noise, h.signal, h.noise) for m, h in map(both, found)])
    error = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - truth[2:]) < 4 * error)
    assert np.all(error < 0.3 * np.abs(truth[2:]) + 0.01)


@pytest.mark.slow
def test_the_same_batch_for_the_curvature_is_biased():
    """With H from the batch that gave the gradients, gᵀHg has a term that never goes away; with
    another batch it has not.
    """
    population = Population(scale=2.0)
    parameters, truth = list(population.module.parameters()), population.truth()
    own, other = [], []
    batches = iter(population.batches(4))
    for _ in range(700):
        first, second = islice(batches, 2)
        gradient = torch.autograd.grad(population.loss(population.module, first), parameters)
        for batch, forms in ((first, own), (second, other)):
            loss = population.loss(population.module, batch)
            forms.append(float(hessian_forms(loss, parameters, [gradient])[0]))
    expected = truth.hessian_grad_sq + truth.hessian_trace / 4  # E ḡᵀHḡ over 4 examples
    errors = [np.std(f, ddof=1) / math.sqrt(len(f)) for f in (own, other)]
    assert abs(np.mean(other) - expected) < 4 * errors[1]
    assert np.mean(own) > expected + 6 * errors[0]


def test_every_geometry_from_the_same_gradients():
    population = Population()
    diagonal = [torch.full_like(p, 2.0) for p in population.module.parameters()]

    def weighted(index, gradient):
        return [(diagonal[index].sqrt() * gradient).flatten()]

    names = ("euclidean", "optimizer", "hessian")
    (probe,) = probes(population, names, pairs=3, size=5, count=1, weighted=weighted)
    assert probe.flat["optimizer"].q_small == pytest.approx(
        2 * probe.flat["euclidean"].q_small, rel=1e-12
    )
    assert probe.flat["optimizer"].q_big == pytest.approx(
        2 * probe.flat["euclidean"].q_big, rel=1e-12
    )
    assert probe.curved["hessian"].euclidean == probe.flat["euclidean"]
    assert (
        probe.examples == (6 + 2 + 1) * 5
    )  # three pairs, a batch for two contrasts, one for the mean
    (plain,) = probes(population, ("euclidean",), pairs=3, size=5, count=1)
    assert plain.examples == 30 and plain.curved == {}


def test_moments_are_those_of_the_micro_batches():
    """Against sums over a list of all gradients, with batches of unequal sizes."""
    population = Population()
    parameters = list(population.module.parameters())
    sizes, draws = [3, 5, 2, 6], iter(population.batches(6))
    batches = [
        Batch((x[:size], y[:size]), size) for size, (x, y) in zip(sizes, draws, strict=False)
    ]
    pause = Pause(
        lambda batch: population.loss(population.module, batch), parameters, ("euclidean",)
    )
    got = pause.probe(iter(batches), 2).flat["euclidean"]
    gradients = [
        torch.autograd.grad(population.loss(population.module, b.content), parameters)
        for b in batches
    ]
    shares = [size / 16 for size in sizes]
    mean = [
        sum(w * g[i] for w, g in zip(shares, gradients, strict=True))
        for i in range(len(parameters))
    ]
    assert got.q_small == pytest.approx(
        sum(w * float(inner(g, g)) for w, g in zip(shares, gradients, strict=True)), rel=1e-12
    )
    assert got.q_big == pytest.approx(float(inner(mean, mean)), rel=1e-12)
    assert (got.c_small, got.c_big) == pytest.approx((4 / 16, 1 / 16), rel=1e-12)


COVARIANCES = {
    "identity": [1.0] * 5,
    "spread": [4.0, 2.0, 1.0, 0.5, 0.25],
    "one direction": [9.0, 1.0, 1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("diagonal", COVARIANCES.values(), ids=COVARIANCES)
def test_linear_regression_by_its_formula(diagonal):
    """x ~ N(0, C), label noise s²: B_noise = 1 + (q + s²) tr(C²)/(δᵀC³δ) with q = δᵀCδ; eps_max =
    δᵀC²δ/(δᵀC³δ).
    """
    generator, c, s2 = (
        torch.Generator().manual_seed(4),
        torch.tensor(diagonal, dtype=torch.float64),
        0.5,
    )
    delta = torch.tensor([1.0, -0.5, 0.8, 0.3, -1.2], dtype=torch.float64)
    along = float(delta @ (c**3 * delta))
    curved = (
        float(along),
        along * (1 + (float(delta @ (c * delta)) + s2) * float((c**2).sum()) / along),
    )
    flat = float(delta @ (c**2 * delta))
    model = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(delta[None])

    def draw():
        while True:
            x = torch.randn(12, 5, generator=generator, dtype=torch.float64) * c.sqrt()
            yield Batch(
                (x, s2**0.5 * torch.randn(12, generator=generator, dtype=torch.float64)), 12
            )

    pause = Pause(
        lambda b: (model(b[0])[:, 0] - b[1]).square().mean() / 2, [model.weight], ("hessian",)
    )
    batches, found = draw(), []
    for _ in range(500):
        h = pause.probe(batches, 1).curved["hessian"]
        found.append((h.moments.signal, h.moments.noise, h.euclidean.signal))
    error = np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - (*curved, flat)) < 4 * error)


def test_mean_estimation():
    """Loss |θ − x|²/2 with x ~ N(µ, I_10), |θ − µ| = 1: H = 1, so B_noise = B_simple = 10 and
    eps_max = 1.
    """
    generator = torch.Generator().manual_seed(5)
    theta = torch.nn.Parameter(torch.eye(10, dtype=torch.float64)[0])

    def draw():
        while True:
            yield Batch(torch.randn(8, 10, generator=generator, dtype=torch.float64), 8)

    pause, batches, found = (
        Pause(lambda x: (theta - x).square().sum(1).mean() / 2, [theta], ("hessian",)),
        draw(),
        [],
    )
    for _ in range(500):
        h = pause.probe(batches, 1).curved["hessian"].moments
        found.append((h.signal, h.noise))
    error = np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - (1, 10)) < 4 * error)
