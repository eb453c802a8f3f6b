"""Curvature and the optimizer's metric on two real ranks."""

import numpy as np
import pytest
import torch

from lightning_noise import Moments
from lightning_noise.core.curvature_average import CurvatureAverage, CurvatureProbe
from lightning_noise.measure.curvature_from_accumulation import Accumulated
from lightning_noise.probes.second_derivatives import hessian_forms
from testing.known_hessian import Endless, Still
from testing.launch import launch

pytestmark = pytest.mark.slow


def by_hand():
    """The first probe, at the first weights, in one process: the mean of what each rank's own
    micro-batches say.
    """
    module = Still()
    data, parameters, found = Endless(module.population, 960), list(module.parameters()), []
    for rank in range(2):
        module.zero_grad()
        window = Accumulated(parameters, 3)
        own = range(rank, 960, 2)
        batches = [data[list(own[start : start + 4])] for start in range(0, 16, 4)]
        for batch in batches[:3]:
            module.loss(batch).backward()
            window.add(4)
        found.append(
            window.probe(hessian_forms(module.loss(batches[3]), parameters, window.vectors()), 1.0)
        )
    return CurvatureProbe(
        Moments(*np.mean([p.moments for p in found], axis=0)),
        Moments(*np.mean([p.euclidean for p in found], axis=0)),
        float(np.mean([p.indefinite for p in found])),
    )


def test_two_ranks(tmp_path):
    first, second = launch("testing.worlds.curvature_worlds:together", 2, tmp_path)
    assert first["identical"] and second["identical"]
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert first["state"] == second["state"] and first["logged"] == second["logged"]
    hessian = next(saved for saved in first["state"]["averages"] if saved["key"][0] == "hessian")
    assert hessian["average"]["probes"] == 15
    assert {"noise_scale/hessian_grad_sq", "noise_scale/hessian_trace"} <= first["logged"].keys()
    assert (
        first["ranks"] == second["ranks"]
        and first["ranks"].steps == first["micro_batches"].steps == 14
    )
    ratio = first["ranks"].noise / first["micro_batches"].noise
    assert (
        0.5 < ratio < 2
    )  # the same tr(PΣ) from two groups a step and from eight, 14 steps each: s.e. about 0.15
    average = CurvatureAverage(0.99)
    average.update(by_hand())
    want = average.state_dict()["windows"][0]["sums"]
    assert np.allclose(
        [first["first probe"][name] for name in want], list(want.values()), rtol=1e-8
    )
