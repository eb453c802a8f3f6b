"""Another batch size for the training loaders: set when Lightning prepares them, restored at the
end.
"""

import copy
import math
import weakref
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import lightning as L
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader

from lightning_noise.adapt.size_plan import Bounds
from lightning_noise.hosts.lightning.inside_epoch import InsideEpoch
from lightning_noise.hosts.lightning.served_loaders import served, unserve
from lightning_noise.hosts.lightning.split import Split


class LoaderError(ValueError):
    """A loader whose batch size cannot be changed; the message says why and what to do."""


class _Original(NamedTuple):
    """A loader and the batch size that the user gave it."""

    loader: weakref.ref[Any]
    size: int


class Resizer:
    """Multiplies the batch size of every training loader by ``ratio`` when the trainer prepares it.

    A sampler reads its batch size when an epoch begins, but a trainer counts the batches when it
    prepares the loader. So the size is set inside ``strategy.process_dataloader``, and
    :meth:`reload_next_epoch` makes the trainer prepare its loaders again. Unless a strategy copies
    the loaders, they are the user's own: their sizes are kept, by weak reference because a loader
    that is kept alive keeps its worker processes, and are restored in :meth:`remove`.

    Args:
        inside: the running epoch, inside of which sizes may change too.
        split: divides the batches; a share of them is another number after a change.
    """

    def __init__(self, inside: InsideEpoch, split: Split) -> None:
        self._inside = inside
        self._split = split
        self.ratio = Fraction(1)
        self._originals: dict[int, _Original] = {}
        # while installed; L.Trainer does not declare the setting that is changed here
        self._trainer: Any = None
        self._reload_every: int | None = None

    # ---- in and out of the trainer --------------------------------------------------------------

    def install(self, trainer: L.Trainer) -> None:
        """Wraps ``process_dataloader`` of the trainer's strategy, whatever its class."""
        self.remove()
        self._trainer = trainer
        strategy: Any = trainer.strategy
        inner: Callable[[Any], Any] = strategy.process_dataloader

        def process_dataloader(dataloader: Any) -> Any:
            prepared = inner(dataloader)
            # validation loaders may be prepared between training batches
            if not trainer.training:
                return self._for_validation(prepared)
            if _validates(trainer, prepared):
                prepared = _apart(prepared, local_size(prepared))
            self.resize(prepared)
            self._split.limit_epoch(prepared)
            return prepared

        strategy.process_dataloader = process_dataloader

    def _for_validation(self, loader: Any) -> Any:
        if not self._holds(loader):
            return loader
        return _apart(loader, self.original_size(loader))

    def remove(self) -> None:
        """Restores the strategy's method, the trainer's setting and the loaders' sizes; may be
        called twice.
        """
        if self._trainer is not None:
            self.settle()
            # the method of the class is visible again
            vars(self._trainer.strategy).pop("process_dataloader", None)
            self._trainer = None
        for original in self._originals.values():
            loader = original.loader()
            if loader is not None:
                unserve(loader)
                _set_size(loader, original.size)
        self._originals.clear()
        self.ratio = Fraction(1)

    # ---- the border between epochs --------------------------------------------------------------

    def reload_next_epoch(self) -> None:
        """Makes the trainer prepare its loaders again before the next epoch; :meth:`settle` must
        follow once it has begun.
        """
        if self._trainer is not None and self._reload_every is None:
            self._reload_every = self._trainer.reload_dataloaders_every_n_epochs
            self._trainer.reload_dataloaders_every_n_epochs = 1

    def settle(self) -> None:
        """Restores the trainer's own reload setting."""
        if self._trainer is not None and self._reload_every is not None:
            self._trainer.reload_dataloaders_every_n_epochs = self._reload_every
            self._reload_every = None

    # ---- one loader -----------------------------------------------------------------------------

    def resize(self, loader: Any) -> None:
        """Sets a loader to its own batch size times the ratio.

        One that cannot be resized is left as it is.
        """
        if fault(loader) is not None:
            return
        size = self.original_size(loader)
        original = _Original(weakref.ref(loader), size)
        self._originals.setdefault(id(loader), original)
        self._inside.serve(loader, size)
        _set_size(loader, self.wanted_size(loader))

    def wanted_size(self, loader: DataLoader[Any]) -> int:
        """The batch size that a loader has once it is prepared."""
        size = int(self.original_size(loader) * self.ratio)
        return max(1, size)

    def _holds(self, loader: Any) -> bool:
        original = self._originals.get(id(loader))
        return original is not None and original.loader() is loader

    def original_size(self, loader: DataLoader[Any]) -> int:
        """The batch size that the user gave the loader."""
        for key, original in list(self._originals.items()):
            if original.loader() is None:
                del self._originals[key]
        if self._holds(loader):
            return self._originals[id(loader)].size
        return local_size(loader)


def local_size(loader: DataLoader[Any]) -> int:
    """The batch size that a loader will use from its next epoch on."""
    sampler = loader.batch_sampler
    if not isinstance(sampler, BatchSampler):
        raise LoaderError(f"{type(loader).__name__} has no batch size.")
    return int(sampler.batch_size)


def _set_size(loader: DataLoader[Any], size: int) -> None:
    if isinstance(loader.batch_sampler, BatchSampler):
        loader.batch_sampler.batch_size = size
    if loader.batch_size is not None:  # it is None beside a batch_sampler of the user's own
        _set_attribute(loader, "batch_size", size)  # the loader's length depends on it


def _set_attribute(loader: DataLoader[Any], name: str, value: object) -> None:
    """DataLoader forbids plain assignment."""
    object.__setattr__(loader, name, value)


def _validates(trainer: L.Trainer, loader: Any) -> bool:
    """Whether a loader for training is also, the very same object, one for validation."""
    if trainer.val_dataloaders is None or fault(loader) is not None:
        return False
    validating = CombinedLoader(trainer.val_dataloaders).flattened
    return any(other is loader for other in validating)


def _apart(loader: DataLoader[Any], size: int) -> DataLoader[Any]:
    """A separate loader over the same data, of batch size ``size``; a shallow copy works for
    subclasses too.
    """
    own = copy.copy(loader)
    own._iterator = None  # its workers belong to the other loader
    unserve(own)
    _set_attribute(own, "batch_sampler", copy.copy(own.batch_sampler))
    _set_size(own, size)
    return own


def fault(loader: Any) -> str | None:
    """Why the batch size of a training loader cannot be changed; ``None`` if it can."""
    name = type(loader).__name__
    if not isinstance(loader, DataLoader):
        return (
            f"{name} is not a torch DataLoader, so its batch size cannot be changed. Use a "
            "DataLoader."
        )
    if loader.batch_sampler is None:
        return (
            f"{name}(batch_size=None) leaves batches to the data set. Give the loader a batch_size."
        )
    if type(loader.batch_sampler) is not BatchSampler and served(loader) is None:
        return (
            f"the batch sampler {type(loader.batch_sampler).__name__} composes batches by rules of "
            "its own, which a new size could break. Use batch_size and sampler of the DataLoader, "
            "or torch's BatchSampler."
        )
    return None


def epoch_examples(loader: DataLoader[Any]) -> int | None:
    """Examples that a loader yields in an epoch on this rank; ``None`` where that is not known."""
    sampler = getattr(loader.batch_sampler, "sampler", None)
    found = sized_len(sampler)
    if found is None:
        return sized_len(loader.dataset)
    return found


def bounds(
    trainer: L.Trainer,
    loaders: list[DataLoader[Any]],
    sizes: list[int],
    max_local_size: int | None,
    split: Split,
) -> Bounds:
    """What the loaders and the trainer allow, counted in examples of the first loader.

    ``sizes`` are the loaders' own batch sizes, whose proportions stay.
    """
    lengths: list[Fraction] = []
    for loader, size in zip(loaders, sizes, strict=True):
        length = epoch_examples(loader)
        if length is not None:
            in_first = Fraction(length * sizes[0], size)
            lengths.append(in_first)
    # else the loader whose size is rounded down has more batches, and others repeat
    multiple = sizes[0] // math.gcd(*sizes)
    multiple = math.lcm(multiple, split.times)  # micro-batches of one size
    limit = split.limit
    if limit is None:
        limit = trainer.limit_train_batches
    fixed: int | None = None
    share = Fraction(1)
    if isinstance(limit, int):
        fixed = limit
    elif isinstance(limit, float):
        share = Fraction(limit)
    if not lengths:
        return Bounds(max_local_size, epoch_batches=fixed, multiple=multiple)
    shortest = min(lengths)
    batches = math.ceil(_least_batches(trainer) / share)
    examples = int(shortest * share)
    local = int(shortest / batches)
    return Bounds(
        max_local_size,
        max(sizes[0], examples),
        max(1, local),
        fixed,
        multiple,
    )


def _least_batches(trainer: L.Trainer) -> int:
    """An epoch with fewer batches than an integer ``val_check_interval`` is an error in Lightning,
    in the middle of the run.
    """
    every = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is None or trainer.limit_val_batches <= 0:
        return 1
    if isinstance(every, int):
        return every
    return 1


def training_loaders(trainer: L.Trainer) -> list[DataLoader[Any]]:
    """The prepared training loaders, in the order of their batches.

    Raises:
        LoaderError: the batch size of one of them cannot be changed.
    """
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    for loader in loaders:
        reason = fault(loader)
        if reason is not None:
            raise LoaderError(reason)
    return loaders
