"""Fabric and the Trainer drive one session: the same data give the same numbers."""

import pytest
import torch
from lightning.fabric.plugins.precision import MixedPrecision

from lightning_noise import NoiseEstimate
from testing.launch import launch
from testing.worlds.fabric_world import by_fabric, by_trainer


def agree(one, other):
    (a, weights), (b, others) = one, other
    a, b = NoiseEstimate(*a), NoiseEstimate(*b)
    assert a.steps == b.steps > 3
    assert (a.signal, a.noise) == pytest.approx((b.signal, b.noise), rel=1e-12)
    assert a.resolved == b.resolved
    assert all(torch.equal(p, q) for p, q in zip(weights, others, strict=True))


@pytest.mark.parametrize(("probe", "accumulation"), [("micro_batches", 2), ("examples", 1)])
def test_fabric_gives_the_numbers_of_the_trainer(probe, accumulation):
    agree(by_fabric(probe, accumulation), by_trainer(probe, accumulation))


@pytest.mark.slow
def test_at_two_ranks_too(tmp_path):
    for rank in launch("testing.worlds.fabric_world:both", 2, tmp_path):
        for accumulation in (1, 2):
            agree(*(rank["found"][accumulation, way] for way in ("fabric", "trainer")))


def test_a_loss_scale_is_divided_out():
    """A GradScaler multiplies the loss by 1024; squared norms of half precision are right to a few
    percent.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    mixed = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    plain, _ = by_fabric("micro_batches", 2, dtype=torch.float32, precision="32-true")
    scaled, _ = by_fabric("micro_batches", 2, dtype=torch.float32, plugins=[mixed])
    assert scaled.steps == plain.steps
    assert (scaled.signal, scaled.noise) == pytest.approx((plain.signal, plain.noise), rel=0.03)
