"""The curve that one run predicts."""

import math

import pytest

from lightning_noise.core.progress import PredictedCurve, predicted_curve


def test_two_stretches_give_the_known_curve():
    found = predicted_curve([100.0] * 300 + [900.0] * 300, global_size=100)
    assert found.s_min == pytest.approx(180)
    assert found.e_min == pytest.approx(42_000)
    assert found.b_crit == pytest.approx(233 + 1 / 3)


def test_steps_count_as_often_as_they_are_said_to_be():
    one_by_one = predicted_curve([100.0] * 300 + [900.0] * 300, global_size=100)
    together = predicted_curve([100.0, 900.0], global_size=100, steps=[300, 300])
    assert together == pytest.approx(one_by_one)


@pytest.mark.parametrize("scales", [[3.0, 50.0, 0.0], [7.0, math.inf, 2.0]])
def test_at_its_own_batch_size_the_prediction_is_the_run(scales):
    assert predicted_curve(scales, global_size=20).steps(20) == pytest.approx(len(scales))


def test_a_constant_noise_scale_is_the_critical_batch_size():
    assert predicted_curve([64.0] * 10, global_size=3).b_crit == pytest.approx(64)


def test_a_step_without_signal_costs_its_examples_and_makes_no_progress():
    found = predicted_curve([math.inf, 10.0], global_size=10)
    assert found.s_min == pytest.approx(0.5)
    assert found.e_min == pytest.approx(10 + 5)
    assert predicted_curve([math.inf], global_size=10).b_crit == math.inf


def steps_of_a_quadratic(size, curvatures, share=0.02, goal=0.1):
    """Steps of expected SGD on a noisy quadratic, and B_noise at each.

    Every step has ``share`` of its best rate, so that steps are short: the law is that of small
    steps. The last one counts in part.
    """
    squares = [1.0] * len(curvatures)
    scales = []
    first = sum(curvatures) / 2
    loss = first
    while True:
        signal = sum(h**3 * s for h, s in zip(curvatures, squares, strict=True))  # GᵀHG
        noise = sum(h * h for h in curvatures)  # tr(HΣ), Σ = diag(h)
        grad_sq = sum(h * h * s for h, s in zip(curvatures, squares, strict=True))
        scales.append(noise / signal)
        rate = share * grad_sq / (signal + noise / size)
        squares = [
            (1 - rate * h) ** 2 * s + rate**2 * h / size
            for h, s in zip(curvatures, squares, strict=True)
        ]
        before = loss
        loss = sum(h * s for h, s in zip(curvatures, squares, strict=True)) / 2
        if loss <= goal * first:
            last = (before - goal * first) / (before - loss)
            return len(scales) - 1 + last, scales


@pytest.mark.parametrize("curvatures", [[1.0], [1.0, 0.5, 0.25, 0.1]])
def test_it_predicts_the_steps_of_a_noisy_quadratic_at_other_batch_sizes(curvatures):
    steps, scales = steps_of_a_quadratic(20, curvatures)
    weights = [1.0] * (len(scales) - 1) + [steps - len(scales) + 1]
    found = predicted_curve(scales, 20, weights)
    for size in (5, 80, 1000):
        assert found.steps(size) == pytest.approx(
            steps_of_a_quadratic(size, curvatures)[0], rel=0.03
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 10), "at least one noise scale, got none"),
        (([1.0, -2.0], 10), "noise_scales must be >= 0, got -2.0"),
        (([math.nan], 10), "noise_scales must be >= 0, got nan"),
        (([1.0], 0), "global_size"),
        (([1.0], 10, [1, 2]), "one length, got 2 and 1"),
        (([1.0], 10, [0]), "steps"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        predicted_curve(*arguments)


def test_a_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="global_size"):
        PredictedCurve(180, 42_000).steps(0)
