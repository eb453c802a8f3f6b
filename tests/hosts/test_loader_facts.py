"""What the training loader gives away: a batch of another size than it seems to have, and examples
in order.
"""

import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from lightning_noise import GradientNoiseScale
from testing.toys import Regression, data, fit

ORDER = "the training loader does not shuffle"
pytestmark = pytest.mark.filterwarnings("default:.*the training loader does not shuffle")


class Weighted(L.LightningModule):
    """Takes {"class_weights": (5,), "x": (B, 4)}, whose first tensor is not the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch["x"]).square().mean() * batch["class_weights"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def weighted(examples=64, local_size=32):
    def collate(rows):
        return {"class_weights": torch.ones(5), "x": torch.stack(rows)}

    x = torch.randn(examples, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(x, batch_size=local_size, shuffle=True, collate_fn=collate)


def said(callback, module, loader, text, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, loader, callback, **arguments)
    return [str(one.message) for one in caught if text in str(one.message)]


def test_a_first_tensor_that_is_not_the_batch_is_reported(capsys):
    found = said(GradientNoiseScale(), Weighted(), weighted(), "rows", accumulate=2, epochs=2)
    assert len(found) == 1
    assert (
        "has 5 rows" in found[0] and "batch size of 32" in found[0] and "batch_size_fn" in found[0]
    )
    assert "has 5 rows, but the training loader has a batch size of 32" in capsys.readouterr().out


def test_batch_size_fn_settles_it():
    callback = GradientNoiseScale(batch_size_fn=lambda batch: len(batch["x"]))
    assert said(callback, Weighted(), weighted(), "rows", accumulate=2) == []
    assert callback.estimate().steps == 1


@pytest.mark.parametrize("examples", [64, 62, 3])
def test_right_sizes_and_short_last_batches_are_not_reported(examples):
    loader = data(examples, local_size=4, shuffle=True)
    assert said(GradientNoiseScale(), Regression(), loader, "rows", accumulate=1) == []


def order(loader, **arguments):
    return said(GradientNoiseScale(), Regression(), loader, ORDER, accumulate=1, **arguments)


def test_a_loader_that_does_not_shuffle_is_reported(capsys):
    found = order(data(shuffle=False))
    assert len(found) == 1 and "SequentialSampler" in found[0] and "shuffle=True" in found[0]
    assert ORDER in capsys.readouterr().out


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data().dataset)


def shuffled_batches(dataset):
    return DataLoader(
        dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 4, drop_last=False)
    )


@pytest.mark.parametrize(
    "loader",
    [
        data(shuffle=True),
        data(examples=16, local_size=16, shuffle=False),
        DataLoader(Stream(), batch_size=4),
        shuffled_batches(TensorDataset(*data().dataset.tensors)),
    ],
    ids=["shuffled", "one batch", "iterable", "shuffled batch sampler"],
)
def test_other_orders_are_not_reported(loader):
    assert order(loader) == []
