"""What a noise scale means for a batch size, against the large-batch model worked out by hand."""

import pytest

from lightning_noise.core.advice import Situation, advise


@pytest.mark.parametrize(
    ("size", "interval", "situation"),
    [
        (32, (160, 108, 250), Situation.TOO_SMALL),
        (54, (160, 108, 250), Situation.ABOUT_RIGHT),  # half of the lower end
        (500, (160, 108, 250), Situation.ABOUT_RIGHT),  # twice the upper end
        (501, (160, 108, 250), Situation.TOO_LARGE),
        (32, (160, 60, 256), Situation.ABOUT_RIGHT),
        (32, (160, 60, 257), Situation.UNDETERMINED),  # may be more than 8 times too small
        (32, (None, 65, None), Situation.TOO_SMALL),
        (32, (None, 64, None), Situation.UNDETERMINED),
        (32, (None, None, None), Situation.UNDETERMINED),
    ],
)
def test_the_situation_by_the_interval(size, interval, situation):
    assert advise(size, *interval).situation is situation


def test_raising_a_small_batch():
    """S/S_min = 1 + 160/B: 6 at 32, 2.25 at 128; E/E_min = 1 + B/160: 1.2 at 32, 1.8 at 128."""
    change = advise(32, 160, 108, 250).change
    assert change.size == 128
    assert change.steps.value == pytest.approx(2.25 / 6)
    assert change.examples.value == pytest.approx(1.5)
    assert change.gain == pytest.approx(6 / 2.25)


def test_the_range_of_a_change_is_that_of_the_ends_of_the_interval():
    """At 108: (1 + 108/128)/(1 + 108/32); at 250 likewise."""
    steps = advise(32, 160, 108, 250).change.steps
    assert steps.low == pytest.approx((1 + 250 / 128) / (1 + 250 / 32))
    assert steps.high == pytest.approx((1 + 108 / 128) / (1 + 108 / 32))


def test_lowering_a_large_batch_does_not_cross_the_noise_scale():
    """1024/2^2 = 256 is above 160, 1024/2^3 = 128 below."""
    advice = advise(1024, 160, 108, 250)
    assert advice.change.size == 256 and advice.distance == pytest.approx(6.4)
    assert advice.change.steps.value == pytest.approx((1 + 160 / 256) / (1 + 160 / 1024))
    assert advise(4, 0.2, 0.1, 0.3).change.size == 1


def test_no_advised_change_exceeds_a_factor_of_eight():
    assert advise(32, 9500, 9000, 10000).change.size == 256
    assert advise(8192, 160, 108, 250).change.size == 1024


def test_a_bound_alone_can_only_raise():
    advice = advise(32, None, 108, None)
    assert advice.change.size == 64 and advice.noise_scale == 108
    assert advice.change.steps.low is None and advice.change.steps.high is None


def test_about_right_names_what_both_directions_do():
    advice = advise(128, 160, 108, 250)
    assert advice.change is None
    assert advice.doubling.steps.value == pytest.approx((1 + 160 / 256) / (1 + 160 / 128))
    assert advice.halving.examples.value == pytest.approx((1 + 64 / 160) / (1 + 128 / 160))


def test_undetermined_advises_nothing():
    advice = advise(128, None, 108, None)
    assert (advice.change, advice.halving, advice.doubling) == (None, None, None)


def test_a_size_must_be_positive():
    with pytest.raises(ValueError, match="size must be a finite number > 0, got 0"):
        advise(0, 160, 108, 250)
