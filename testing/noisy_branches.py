"""A noisy quadratic whose branches are known in closed form, as a Lightning module.

The loss of an example x is ½ |θ − x|², with x normal of mean 0 and variance s² in each of d
coordinates. So the expected loss, without its constant, is ½ |θ|², a batch of B has the gradient θ
plus noise of variance s²/B per coordinate, and B_simple is d s² / |θ|². SGD at a constant rate ε
gives after n steps

    E ½ |θ|² = ½ (1 − ε)^(2n) |θ_0|² + ½ d (s²/B) ε² (1 − (1 − ε)^(2n)) / (1 − (1 − ε)²).
"""

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

DIMENSIONS = 10
VARIANCE = 4.0
START = 1.0  # of every weight
RATE = 0.02


def expected_loss(square, steps, rate, global_size, variance=VARIANCE):
    """Of a branch from weights with this squared norm."""
    contraction = (1 - rate) ** 2
    left = contraction**steps
    noise = rate**2 * variance / global_size * (1 - left) / (1 - contraction)
    return (square * left + DIMENSIONS * noise) / 2


class Quadratic(L.LightningModule):
    """Plain SGD unless it is given another optimizer, from its parameters and a rate."""

    def __init__(self, learning_rate=RATE, optimizer=torch.optim.SGD, decay=None):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.full((DIMENSIONS,), START, dtype=torch.float64))
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.decay = decay

    def training_step(self, batch, batch_idx):
        return (self.weights - batch[0]).square().sum(dim=1).mean() / 2

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.weights.square().sum() / 2)

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters(), lr=self.learning_rate)
        if self.decay is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def make_module(parameters):
    return Quadratic(**parameters)


def examples_of(seed, number, variance=VARIANCE):
    order = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, DIMENSIONS, generator=order, dtype=torch.float64)
    return TensorDataset(variance**0.5 * noise)


VALIDATION = DataLoader(TensorDataset(torch.zeros(1, 1)))


def make_data(global_size, seed):
    """Fresh examples, the same for every batch size; a branch sees each of them once."""
    return DataLoader(examples_of(seed, 6144), global_size), VALIDATION


def without_noise(global_size, seed):
    return DataLoader(examples_of(seed, 6144, variance=0.0), global_size), VALIDATION


def saved(folder, module=None, *, steps=1, data=without_noise, **arguments):
    """Path of a checkpoint after some steps of 8 examples."""
    trainer = trained(module or Quadratic(), steps, data)
    path = folder / "run.ckpt"
    trainer.save_checkpoint(path, **arguments)
    return path


def trained(module, steps, data=without_noise):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, data(8, 0)[0])
    return trainer
