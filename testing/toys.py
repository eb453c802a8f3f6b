"""Small modules and a quiet Trainer for tests of the callback."""

import warnings

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(L.LightningModule):
    """A two-layer regression; the optimizer is given by a function of the parameters."""

    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.05), width=6, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        self.make_optimizer = optimizer

    def loss(self, batch):
        x, y = batch
        return (self.net(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class Summed(L.LightningModule):
    """Linear(2, 2), loss ``out.sum()``, frozen weights: the problems with exact answers."""

    def __init__(self, learning_rate=0.0):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.learning_rate = learning_rate

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum(dim=1).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def data(examples=64, local_size=4, seed=1, shuffle=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 4, generator=generator, dtype=dtype)
    y = x.sum(dim=1, keepdim=True).sin() + 0.5 * torch.randn(
        examples, 1, generator=generator, dtype=dtype
    )
    return DataLoader(TensorDataset(x, y), batch_size=local_size, shuffle=shuffle)


class Resumable(DataLoader):
    """A loader that starts again where a checkpoint left it, as torchdata's stateful
    loader does.
    """

    at = start = 0

    def __iter__(self):
        begin, self.start = self.start, 0
        for self.at, batch in enumerate(super().__iter__(), start=1):
            if self.at > begin:
                yield batch

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.start = state["at"]


def rows(*inputs):
    return DataLoader(TensorDataset(torch.tensor(inputs)), batch_size=1)


def trainer(*callbacks, epochs=1, accumulate=2, package=L, **arguments):
    """``package`` is lightning or its twin, pytorch_lightning."""
    arguments = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": epochs,
        "accumulate_grad_batches": accumulate,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        **arguments,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about hardware
        return package.Trainer(**arguments)


def fit(module, loader, *callbacks, ckpt_path=None, val=None, **arguments):
    run = trainer(*callbacks, **arguments)
    run.fit(module, loader, val, ckpt_path=ckpt_path)
    return run
