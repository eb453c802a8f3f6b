"""A study that takes milliseconds per run: linear regression with label noise, by plain SGD."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise.study import BatchSizeStudy, Budget, Goal, LogUniform, Search, Workers

SIZES = (4, 8, 16, 32, 64)
GOALS = (Goal(metric="val_loss", target=0.7), Goal(metric="val_loss", target=0.55))


def make_data(global_size, seed):
    """512 examples of 6 features, the same in every run; ``seed`` orders them."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(512, 6, generator=source)
    y = x @ torch.linspace(-1, 1, 6) + torch.randn(512, generator=source)
    order = torch.Generator().manual_seed(seed)
    data = TensorDataset(x, y)
    train = DataLoader(data, global_size, shuffle=True, drop_last=True, generator=order)
    return train, DataLoader(data, batch_size=512)


class Body:
    """Starts at 0, where the loss is about 1.4; the least is about 0.5."""

    def __init__(self, learning_rate, momentum=0.0):
        super().__init__()
        self.rate, self.momentum = learning_rate, momentum
        self.layer = nn.Linear(6, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def loss(self, batch):
        x, y = batch
        return (self.layer(x).squeeze(1) - y).square().mean() / 2

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=self.momentum)


class Regression(Body, L.LightningModule):
    pass


def make_module(parameters):
    return Regression(**parameters)


SEARCH = Search(trials=6, seeds=2)


def study(storage, **changes):
    """Two goals, five sizes, a handful of trials, in this process."""
    arguments = {
        "make_module": make_module,
        "make_data": make_data,
        "goal": GOALS,
        "batch_sizes": SIZES,
        "search_space": {"learning_rate": LogUniform(0.01, 2.0)},
        "search": SEARCH,
        "budget": Budget(examples=4096, steps=200),
        "storage": storage,
        "validate_every": 32,
        "workers": Workers(count=0),
        "progress": False,
    }
    return BatchSizeStudy(**{**arguments, **changes})
