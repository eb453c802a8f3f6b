"""The algebra of rows: the sum over ranks is the step's row, whoever hands out the parts."""

import torch

from lightning_noise.core.moments import Moments
from lightning_noise.probes.rows import combined, replicated, step_row, unscaled, unusable


def test_parts_of_two_replicas_add_up_to_the_step():
    """Ranks of 4 and 8 examples with equal weights: c_small = (1/4 + 1/8)/2, c_big =
    (1/4 + 1/8)/4.
    """
    q_big = torch.tensor([3.0], dtype=torch.float64)
    parts = []
    for norm, size in ((10.0, 4), (6.0, 8)):
        row = step_row(torch.tensor([norm], dtype=torch.float64), q_big, 1 / size, 1 / size)
        parts.append(replicated(row, 2))
    assert Moments(*sum(parts)[0].tolist()) == Moments(8.0, 3.0, 0.1875, 0.09375)


def test_scaling_and_combining_commute_with_replication():
    rows = [torch.rand(3, 4, dtype=torch.float64) for _ in range(3)]
    one = replicated(unscaled(combined(rows), 8.0), 4)
    other = combined([unscaled(replicated(row, 4), 8.0) for row in rows])
    torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def test_nothing_is_changed_in_place():
    row = torch.rand(2, 4, dtype=torch.float64)
    kept = row.clone()
    replicated(row, 2), unscaled(row, 2.0), combined([row, row])
    assert torch.equal(row, kept)


def test_an_unusable_part_spoils_the_sum():
    assert combined([torch.ones(1, 4), None]) is None and combined([]) is None
    assert not (unusable(2, torch.device("cpu")) + torch.ones(2, 4)).isfinite().any()
