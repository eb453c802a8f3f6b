"""The known answer: steps to a goal in the noisy quadratic model, at the best constant rate."""

import optuna
import pytest

from lightning_noise import CriticalBatchSize
from lightning_noise.study import (
    BatchSizeStudy,
    Budget,
    CentredLearningRate,
    Goal,
    Search,
    Workers,
)
from testing import noisy_quadratic as model
from testing.quadratic import GOAL, best_steps

SIZES = [128 * 2**k for k in range(8)]


@pytest.mark.slow
def test_a_study_finds_the_best_steps_of_the_noisy_quadratic_model():
    goal = Goal(metric="loss", target=GOAL, on="train")
    result = BatchSizeStudy(
        make_module=model.make_module,
        make_data=model.make_data,
        goal=goal,
        batch_sizes=SIZES,
        search_space={"learning_rate": CentredLearningRate(eps_max=1.6, b=220, spread=1.5)},
        search=Search(trials=16, seeds=1),
        budget=Budget(steps=8_000),
        storage=optuna.storages.InMemoryStorage(),
        noise_scale=False,
        workers=Workers(count=0),
        progress=False,
    ).run()
    expected = {size: best_steps(size).steps for size in SIZES}
    exact = CriticalBatchSize.fit(list(expected), list(expected.values()))
    assert result.steps(goal.name) == pytest.approx(expected, rel=0.05)
    assert result.fits[goal.name].b_crit == pytest.approx(exact.b_crit, rel=0.05)
