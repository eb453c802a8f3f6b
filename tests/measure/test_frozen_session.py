"""Samples at frozen weights go through the same table, averages and sinks as training steps."""

import pytest

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.estimate import estimate_noise_scale
from lightning_noise.core.moments import Key
from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.measure.frozen_session import FrozenSession
from testing.exact import Population

NAMES = ("euclidean", "hessian")
SAMPLES = 12


def population_pause():
    population = Population()
    parameters = list(population.module.parameters())
    pause = Pause(lambda batch: population.loss(population.module, batch), parameters, NAMES)
    return pause, (Batch(b, len(b[1])) for b in population.batches(4))


def test_estimates_are_those_of_the_samples_averaged_by_hand():
    pause, batches = population_pause()
    probes = [pause.probe(batches, 2) for _ in range(SAMPLES)]
    by_hand = CurvatureAverage(1.0)
    for probe in probes:
        by_hand.update(probe.curved["hessian"])

    pause, batches = population_pause()
    session = FrozenSession(pause, NAMES)
    used = [session.sample(batches, 2) for _ in range(SAMPLES)]
    assert used == [probe.examples for probe in probes]
    expected = estimate_noise_scale(probe.flat["euclidean"] for probe in probes)
    assert session.estimate(Key("euclidean")) == expected
    assert session.estimate(Key("hessian")) == by_hand.estimate()
    assert session.curvatures["hessian"].eps_max() == by_hand.eps_max()
    assert [average.steps for average in session.averages] == [SAMPLES, SAMPLES]


def test_a_sink_sees_every_sample_of_every_geometry():
    pause, batches = population_pause()
    session = FrozenSession(pause, NAMES)
    seen = []
    session.observe(seen.append)
    for _ in range(3):
        session.sample(batches, 1)
    assert [reading.key.geometry for reading in seen] == 3 * list(NAMES)
    assert seen[-2].estimate == session.estimate(Key("euclidean"))


def test_a_geometry_that_was_not_asked_for_is_not_there():
    pause, _ = population_pause()
    session = FrozenSession(pause, ["hessian"])
    with pytest.raises(KeyError):
        session.estimate(Key("euclidean"))
