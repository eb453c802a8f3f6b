"""Another batch size for the training loaders: given as Lightning prepares them, taken back at the
end.
"""

import copy
import math
import weakref
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import lightning as L
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader

from lightning_noise.adapt.size_plan import Bounds


class LoaderError(ValueError):
    """A loader whose batch size cannot be changed; the message says why and what to do."""


class Resizer:
    """Multiplies the batch size of every training loader by ``ratio`` when the trainer prepares it.

    A sampler reads its batch size when an epoch begins, but a trainer counts the batches when it
    prepares the loader. So the size is set inside ``strategy.process_dataloader``, and
    :meth:`reload_next_epoch` makes the trainer prepare its loaders again. The loaders are the
    user's own where no strategy copies them: their sizes are noted, by weak reference because a
    loader that is kept keeps its worker processes, and come back in :meth:`remove`.
    """

    def __init__(self) -> None:
        self.ratio = Fraction(1)
        self._originals: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._trainer: Any = (
            None  # while installed; L.Trainer does not declare the setting that is changed here
        )
        self._reload_every: int | None = None

    # ---- in and out of the trainer --------------------------------------------------------------

    def install(self, trainer: L.Trainer) -> None:
        """Wraps ``process_dataloader`` of the trainer's strategy, whatever class it is of."""
        self.remove()
        self._trainer = trainer
        strategy: Any = trainer.strategy
        inner: Callable[[Any], Any] = strategy.process_dataloader

        def process_dataloader(dataloader: Any) -> Any:
            prepared = inner(dataloader)
            if (
                not trainer.training
            ):  # validation loaders, which may be prepared between training batches
                return (
                    _apart(prepared, self.original_size(prepared))
                    if self._holds(prepared)
                    else prepared
                )
            if _validates(trainer, prepared):
                prepared = _apart(prepared, local_size(prepared))
            self.resize(prepared)
            return prepared

        strategy.process_dataloader = process_dataloader

    def remove(self) -> None:
        """Gives the strategy its method, the trainer its setting and the loaders their sizes back;
        may be called twice.
        """
        if self._trainer is not None:
            self.settle()
            vars(self._trainer.strategy).pop(
                "process_dataloader", None
            )  # the class's own is visible again
            self._trainer = None
        for reference, size in self._originals.values():
            loader = reference()
            if loader is not None:
                _set_size(loader, size)
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
        """Gives the trainer its own reload setting back."""
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
        self._originals.setdefault(id(loader), (weakref.ref(loader), size))
        _set_size(loader, self.wanted_size(loader))

    def wanted_size(self, loader: DataLoader[Any]) -> int:
        """The batch size that a loader has once it is prepared."""
        return max(1, int(self.original_size(loader) * self.ratio))

    def _holds(self, loader: Any) -> bool:
        reference, _ = self._originals.get(id(loader), (None, 0))
        return reference is not None and reference() is loader

    def original_size(self, loader: DataLoader[Any]) -> int:
        """The batch size that the user gave the loader."""
        self._originals = {
            key: kept for key, kept in self._originals.items() if kept[0]() is not None
        }
        return self._originals[id(loader)][1] if self._holds(loader) else local_size(loader)


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
        object.__setattr__(
            loader, "batch_size", size
        )  # DataLoader forbids the plain way; its length depends on it


def _validates(trainer: L.Trainer, loader: Any) -> bool:
    """Whether a loader for training is also, the very same object, one for validation."""
    if trainer.val_dataloaders is None or fault(loader) is not None:
        return False
    return any(other is loader for other in CombinedLoader(trainer.val_dataloaders).flattened)


def _apart(loader: DataLoader[Any], size: int) -> DataLoader[Any]:
    """A loader of its own over the same data, of batch size ``size``; a shallow copy does for
    subclasses too.
    """
    own = copy.copy(loader)
    own._iterator = None  # its workers are the other one's
    object.__setattr__(
        own, "batch_sampler", copy.copy(loader.batch_sampler)
    )  # DataLoader forbids the plain way
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
    if type(loader.batch_sampler) is not BatchSampler:
        return (
            f"the batch sampler {type(loader.batch_sampler).__name__} composes batches by rules of "
            f"its own, which a new size "
            "could break. Use batch_size and sampler of the DataLoader, or torch's BatchSampler."
        )
    return None


def epoch_examples(loader: DataLoader[Any]) -> int | None:
    """Examples that a loader hands out in an epoch on this rank; ``None`` where that is
    not known.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    found = sized_len(sampler)
    return sized_len(loader.dataset) if found is None else found


def bounds(
    trainer: L.Trainer, loaders: list[DataLoader[Any]], sizes: list[int], max_local_size: int | None
) -> Bounds:
    """What the loaders and the trainer allow, counted in examples of the first loader.

    ``sizes`` are the loaders' own batch sizes, whose proportions stay.
    """
    known = [(epoch_examples(loader), size) for loader, size in zip(loaders, sizes, strict=True)]
    lengths = [Fraction(length * sizes[0], size) for length, size in known if length is not None]
    multiple = sizes[0] // math.gcd(
        *sizes
    )  # else the loader whose size is rounded down has more batches, and others repeat
    limit = trainer.limit_train_batches
    fixed = limit if isinstance(limit, int) else None
    if not lengths:
        return Bounds(max_local_size, epoch_batches=fixed, multiple=multiple)
    share = Fraction(limit) if isinstance(limit, float) else Fraction(1)
    batches = math.ceil(_least_batches(trainer) / share)
    examples, local = max(sizes[0], int(min(lengths) * share)), max(1, int(min(lengths) / batches))
    return Bounds(max_local_size, examples, local, fixed, multiple)


def _least_batches(trainer: L.Trainer) -> int:
    """An epoch with fewer batches than an integer ``val_check_interval`` is an error in Lightning,
    in mid-run.
    """
    every = trainer.val_check_interval
    per_epoch = (
        isinstance(every, int)
        and trainer.check_val_every_n_epoch is not None
        and trainer.limit_val_batches > 0
    )
    return int(every) if per_epoch else 1


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
