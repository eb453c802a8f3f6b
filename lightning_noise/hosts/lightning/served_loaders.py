"""Which training loaders can change their batch size inside an epoch, and the sampler they get."""

from fractions import Fraction
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.types import _Stateful  # what Lightning itself asks of loaders
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_noise.hosts.lightning.epoch_sizes import EpochSizes
from lightning_noise.hosts.lightning.sized_batches import SizedBatchSampler
from lightning_noise.hosts.lightning.split_loader import original


def served(loader: Any) -> SizedBatchSampler | None:
    """The sampler by which a loader changes its batch size inside an epoch, if it has one."""
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(sampler, SizedBatchSampler):
        return sampler
    return None


def serve(loader: DataLoader[Any], size: int, sizes: EpochSizes) -> SizedBatchSampler:
    """Gives a loader, whose own batch size is ``size``, a sampler that follows ``sizes``."""
    sampler = served(loader)
    if sampler is not None:
        return sampler
    inner: Any = loader.batch_sampler
    continues_itself = isinstance(original(loader), _Stateful)
    streams = isinstance(loader.dataset, IterableDataset)
    sampler = SizedBatchSampler(
        inner,
        size,
        sizes,
        skips=not streams and not continues_itself,
        begins_inside=streams and not continues_itself,
    )
    _set_sampler(loader, sampler)
    return sampler


def unserve(loader: DataLoader[Any]) -> None:
    """Gives a loader its own batch sampler back; does nothing to others."""
    sampler = served(loader)
    if sampler is not None:
        _set_sampler(loader, sampler.inner)


def _set_sampler(loader: DataLoader[Any], sampler: BatchSampler) -> None:
    # DataLoader forbids plain assignment
    object.__setattr__(loader, "batch_sampler", sampler)
    # worker processes that persist from an earlier use would draw by the sampler of then
    loader._iterator = None


def not_served(loader: DataLoader[Any]) -> str | None:
    """Why a loader, whose batch size can be changed between epochs, cannot change it inside one.

    ``None`` if it can.
    """
    whole = original(loader)
    kind = type(whole)
    own_batches = kind.__iter__ is not DataLoader.__iter__
    if own_batches and not isinstance(whole, _Stateful):
        return f"{kind.__name__} defines __iter__, so its batches may not be those that are drawn"
    return None


def examples_of(loader: DataLoader[Any]) -> int | None:
    """Examples of an epoch of a loader, on this rank; ``None`` where that is not known."""
    if isinstance(loader.dataset, IterableDataset):
        return sized_len(loader.dataset)
    sampler = served(loader)
    if sampler is None:
        return sized_len(loader.sampler)
    return sized_len(sampler.sampler)  # of a batch sampler of the user's, where there is one


def not_proportionate(loaders: list[DataLoader[Any]]) -> str:
    """Why several loaders cannot change together inside an epoch; "" if they can, or if one is
    alone.
    """
    if len(loaders) == 1:
        return ""
    batches: set[Fraction] = set()
    for loader in loaders:
        examples = examples_of(loader)
        sampler = served(loader)
        if examples is None or sampler is None or isinstance(loader.dataset, IterableDataset):
            return "one of several loaders has no known length"
        batches.add(Fraction(examples, sampler.original))
    if len(batches) > 1:
        return "several loaders have different numbers of batches, so that some begin anew"
    return ""
