"""A module that keeps what it was given, loaders of every kind, and a policy that
follows a script.
"""

import lightning as L
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler

from lightning_noise import AdaptiveBatchSize, Decision, GradientNoiseScale
from testing.toys import trainer

EXAMPLES = 96


class Script:
    """A pure policy: for each size the one that follows it; sizes that it does not name
    are kept.
    """

    def __init__(self, following):
        self.following = following

    def __call__(self, estimate, global_size):
        return Decision(
            self.following.get(round(global_size), round(global_size)),
            f"grow: script at {global_size:.0f}",
        )


def adapting(following, **settings):
    return GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(Script(following), **settings))


class Numbered(Dataset):
    """Examples that know their own number."""

    def __init__(self, examples=EXAMPLES, offset=0):
        self.examples, self.offset = examples, offset

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        if not 0 <= index < self.examples:
            raise IndexError(index)
        number = torch.tensor(index + self.offset)
        return torch.stack([number.sin(), number.cos()]), number


class Stream(IterableDataset):
    def __init__(self, examples=EXAMPLES):
        self.examples = examples

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        whole = Numbered(self.examples)
        return (whole[i] for i in range(first, self.examples, step))


class SizedStream(Stream):
    def __len__(self):
        return self.examples


class Odd(DataLoader):
    """A subclass that cannot be made again from its batch size."""

    def __init__(self, first, second, third):
        super().__init__(first, second, shuffle=third)


class Keeper(L.LightningModule):
    """Keeps per epoch: the examples of each batch, the trainer's count of batches, the
    accumulation.
    """

    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.01)):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(2, 1)
        self.make_optimizer = optimizer
        self.epochs = {}

    def training_step(self, batch, batch_idx):
        kept = self.epochs.setdefault(self.current_epoch, {"batches": [], "steps": 0})
        kept["total"], kept["accumulation"] = (
            self.trainer.num_training_batches,
            self.trainer.accumulate_grad_batches,
        )
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        kept["batches"].append([part[1].tolist() for part in parts])
        return sum((self.layer(x) - number.sin()[:, None]).square().mean() for x, number in parts)

    def on_before_zero_grad(self, optimizer):
        if self.current_epoch in self.epochs:
            self.epochs[self.current_epoch]["steps"] += 1

    def validation_step(self, batch, batch_idx):
        self.epochs.setdefault(self.current_epoch, {"batches": [], "steps": 0}).setdefault(
            "val", []
        ).append(len(batch[1]))

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())

    def sizes(self, loader=0):
        """Length of the first batch of each epoch."""
        return [len(kept["batches"][0][loader]) for kept in self.epochs.values() if kept["batches"]]

    def numbers(self, loader=0):
        """Examples of each epoch, sorted."""
        return [
            sorted(n for b in kept["batches"] for n in b[loader])
            for kept in self.epochs.values()
            if kept["batches"]
        ]

    def totals(self):
        return [kept["total"] for kept in self.epochs.values() if kept["batches"]]

    def counts(self):
        return [len(kept["batches"]) for kept in self.epochs.values() if kept["batches"]]


def numbered(local_size=4, **arguments):
    return DataLoader(Numbered(), batch_size=local_size, **arguments)


def own_sampler():
    return DataLoader(Numbered(), batch_sampler=BatchSampler(RandomSampler(Numbered()), 4, False))


def run(
    module,
    callback,
    data=None,
    *,
    epochs=4,
    accumulate=1,
    callbacks=(),
    before=(),
    val=None,
    **arguments,
):
    """Fits and hands out the trainer."""
    fitted = trainer(
        *before, callback, *callbacks, epochs=epochs, accumulate=accumulate, **arguments
    )
    if isinstance(data, L.LightningDataModule):
        fitted.fit(module, datamodule=data)
    else:
        fitted.fit(module, data, val)
    return fitted
