"""What training loaders reveal about their batches: their size and the order of the examples."""

import math
from typing import Any

import lightning as L
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from lightning_noise.hosts.lightning.served_loaders import served
from lightning_noise.hosts.lightning.split_loader import SplitLoader


def loader_sizes(trainer: L.Trainer) -> list[int]:
    """Batch sizes of the training loaders, as far as they have one."""
    sizes: list[int] = []
    for loader in _loaders(trainer):
        sampler = served(loader)
        if sampler is not None:
            sizes += [stretch.size // _pieces(loader) for stretch in sampler.stretches]
            continue
        size = _batch_size(loader)
        if size is not None:
            sizes.append(size)
    return sizes


def size_caution(measured: float, sizes: list[int]) -> str:
    """The warning that a batch seems to hold more or fewer examples than its loader's batch size;
    "" where they agree.
    """
    if not sizes or measured in sizes:
        return ""
    different = sorted(set(sizes))
    named = " and ".join(map(str, different))
    return (
        f"the first tensor of a batch has {measured:g} rows, but the training loader has a batch "
        f"size of {named}. If a batch does not hold {measured:g} examples, every noise scale is "
        "wrong by that factor: pass batch_size_fn, a function from the batch to its number of "
        "examples (or tokens)"
    )


class SizeCheck:
    """Compares the first batch of a fit with the batch size of its loader; the last batch of an
    epoch may be a short one.

    Args:
        trainer: of the fit.
        given: whether the user gives the number of examples in a batch, so that there is nothing
            to compare.
    """

    def __init__(self, trainer: L.Trainer, *, given: bool) -> None:
        self._trainer = trainer
        self._done = given

    def caution(self, size: float | None) -> str:
        """The warning, once; "" where there is none."""
        if self._done or size is None or self._trainer.is_last_batch:
            return ""
        self._done = True
        return size_caution(size, loader_sizes(self._trainer))


def order_cautions(trainer: L.Trainer) -> list[str]:
    """A warning for every training loader that does not shuffle a data set of several batches."""
    cautions = map(_order_caution, _loaders(trainer))
    return list(filter(None, cautions))


def _order_caution(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return ""
    batches = loader.batch_sampler
    own_rules = type(batches) is not BatchSampler and served(loader) is None
    if own_rules or not isinstance(batches, BatchSampler):
        return ""
    sampler = batches.sampler
    in_order = isinstance(sampler, SequentialSampler)
    if isinstance(sampler, DistributedSampler):
        in_order = not sampler.shuffle
    examples = sized_len(sampler) or math.inf
    if not in_order or examples <= batches.batch_size:
        return ""
    return (
        f"the training loader does not shuffle ({type(sampler).__name__}). If neighbouring "
        "examples of the data set are alike, as where it is sorted by class, the noise scale is "
        "wrong with no other sign: use DataLoader(shuffle=True). "
        "Where the order of the data set is random, this is fine"
    )


def _loaders(trainer: L.Trainer) -> list[Any]:
    return list(CombinedLoader(trainer.train_dataloader).flattened)


def _batch_size(loader: Any) -> int | None:
    holder = getattr(loader, "batch_sampler", None)
    if holder is None:
        holder = loader
    size = getattr(holder, "batch_size", None)
    if not isinstance(size, int) or isinstance(size, bool):
        return None
    return size // _pieces(loader)


def _pieces(loader: Any) -> int:
    """Micro-batches of one batch."""
    if isinstance(loader, SplitLoader):
        return loader.times
    return 1
