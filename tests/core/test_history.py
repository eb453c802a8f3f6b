"""The moments of a run that are kept for its figure."""

from lightning_noise.core.history import History, Moment


def moment(step):
    return Moment(step, step // 2, 100.0 + step, 80.0, None, 32.0)


def history(most, steps):
    found = History(most)
    for step in range(steps):
        found.add(moment(step))
    return found


def test_a_short_run_is_kept_whole():
    assert history(most=800, steps=50).moments == [moment(step) for step in range(50)]


def test_a_long_run_is_thinned_evenly_and_ends_with_its_latest_moment():
    """More than 100 moments are halved at 101, 201, 401 and 801 of them: every 16th stays."""
    found = history(most=100, steps=1000)
    steps = [one.step for one in found.moments]
    assert steps == [*range(0, 1000, 16), 999]


def test_an_empty_history_has_no_moment():
    assert History().moments == []
