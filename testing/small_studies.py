"""A study of one batch size and three runs, and its model after a change of the code."""

from lightning_noise.study import Goal, Search
from testing import cheap

SMALL = {
    "batch_sizes": [32],
    "search": Search(trials=2, seeds=1),
    "noise_scale": False,
    "goal": Goal(metric="val_loss", target=0.7),
}


def small(storage, **changes):
    return cheap.study(storage, **{**SMALL, **changes})


class Flipped(cheap.Regression):
    def loss(self, batch):
        return 2 * super().loss(batch)


def flipped(parameters):
    return Flipped(**parameters)


def scaled(factor, parameters):
    return cheap.Regression(parameters["learning_rate"] * factor)
