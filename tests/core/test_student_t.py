import pytest
from scipy.stats import t as oracle

from lightning_noise.core.student_t import student_t_quantile


@pytest.mark.parametrize("nu", [1, 1.5, 2, 3, 4, 7.3, 20, 29.99, 30, 100, 1e4])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.995, 0.9995, 0.025])
def test_agrees_with_scipy(probability, nu):
    assert student_t_quantile(probability, nu) == pytest.approx(
        oracle.ppf(probability, nu), rel=2e-6, abs=1e-12
    )


@pytest.mark.parametrize(
    ("probability", "nu"), [(0.0, 3), (1.0, 3), (0.9, 0.5), (0.9, float("nan"))]
)
def test_out_of_range(probability, nu):
    with pytest.raises(ValueError, match="probability"):
        student_t_quantile(probability, nu)
