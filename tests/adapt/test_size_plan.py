"""From a wanted size to one that loaders and ranks can do: a table of cases, and what no case may
break.
"""

import pytest

from lightning_noise.adapt.size_plan import BatchPlan, Bounds, plan_for, plan_within_epoch

PLANS = [  # wanted, current, start, bounds → local, accumulation
    (100, (16, 1, 1), (16, 1, 1), {}, (100, 1)),
    (100, (16, 1, 3), (16, 1, 3), {}, (33, 1)),  # 99, not past what was wanted
    (20, (8, 1, 4), (8, 1, 4), {}, (5, 1)),
    (21, (8, 1, 4), (8, 1, 4), {}, (6, 1)),  # shrinking to 24, not past what was wanted
    (33, (8, 1, 4), (8, 1, 4), {}, (8, 1)),  # nothing between 32 and 33
    (31, (8, 1, 4), (8, 1, 4), {}, (8, 1)),
    (64, (4, 2, 1), (4, 2, 1), {}, (32, 2)),  # the user's accumulation stays
    (64, (4, 2, 1), (4, 2, 1), {"max_local_size": 4}, (4, 16)),
    (70, (4, 2, 1), (4, 2, 1), {"max_local_size": 16}, (14, 5)),
    (70, (4, 2, 1), (4, 2, 1), {"multiple": 4}, (32, 2)),
    (70, (4, 2, 1), (4, 2, 1), {"max_local_size": 15, "multiple": 4}, (8, 6)),
    (70, (4, 2, 1), (4, 2, 1), {"epoch_local": 3, "multiple": 4}, (4, 17)),
    (30, (36, 2, 1), (8, 2, 1), {"multiple": 4}, (16, 2)),
    (1, (4, 2, 1), (4, 2, 1), {}, (1, 2)),
    (1, (4, 1, 1), (4, 1, 1), {}, (2, 1)),  # one example would be one group
    (1, (4, 1, 2), (4, 1, 2), {}, (1, 1)),
    (8, (16, 4, 1), (16, 1, 1), {"max_local_size": 16}, (8, 1)),
    (500, (16, 1, 2), (16, 1, 2), {"epoch_examples": 100}, (100, 1)),
    (640, (16, 1, 2), (16, 1, 2), {"max_local_size": 16, "epoch_batches": 6}, (16, 6)),
    (500, (16, 1, 2), (16, 1, 2), {"epoch_examples": 100, "epoch_local": 20}, (20, 5)),
]


@pytest.mark.parametrize(("wanted", "current", "start", "limits", "expected"), PLANS)
def test_plans(wanted, current, start, limits, expected):
    plan, note = plan_for(wanted, BatchPlan(*current), BatchPlan(*start), Bounds(**limits))
    assert (plan.local_size, plan.accumulation) == expected
    assert bool(note) == (
        plan.global_size != wanted or "epoch_local" in limits or plan.accumulation != start[1]
    )


def test_plans_never_pass_the_limits_nor_the_size_wanted():
    for wanted in range(1, 400):
        for ranks, most, examples in ((1, 8, 100), (3, None, 57), (4, 6, None)):
            current = start = BatchPlan(5, 2, ranks)
            for fitted in (plan_for, plan_within_epoch):
                plan, _ = fitted(wanted, current, start, Bounds(most, examples))
                low, high = sorted((max(wanted, 1), current.global_size))
                assert (
                    low <= plan.global_size <= high
                    or plan.global_size == start.accumulation * ranks
                )
                assert plan.local_size <= (most or plan.local_size) and plan.accumulation >= 2
                assert plan.local_size * plan.accumulation <= (examples or plan.global_size)


def test_a_plan_says_what_it_is():
    start = BatchPlan(16, 1, 1)
    assert str(BatchPlan(8, 2, 1)) == "local size 8 × accumulation 2 × 1 rank"
    assert BatchPlan(8, 2, 3).global_size == 48
    _, note = plan_for(50, start, start, Bounds(epoch_local=20))
    assert note == "an epoch needs batches of at most 20, so accumulation takes over"
    _, note = plan_within_epoch(70, start, start)
    assert note == "70 rounded to what 1 × 4 micro-batches can do"
    _, note = plan_within_epoch(70, start, start, Bounds(epoch_examples=40))
    assert "no more than 40 examples" in note
