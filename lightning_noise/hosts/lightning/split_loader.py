"""A training loader whose batches are handed out in several micro-batches of the same examples."""

import copy
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader

Collate = Callable[[Any], Any]


BY_HAND = (
    "Leave split out, make the batches smaller by that factor, and use "
    "Trainer(accumulate_grad_batches=...) with it."
)


class SplitError(ValueError):
    """A loader whose batches cannot be split; the message says why and what to do."""


class Pieces(NamedTuple):
    """The micro-batches of one batch, as they travel from a worker process to the loader.

    Args:
        batches: what the collate function made of each piece.
        factors: for each piece, its examples divided by those of an equal piece; 0.0 for one that
            must not count.
    """

    batches: list[Any]
    factors: list[float]


class SplitCollate:
    """Collates the samples of one batch in ``times`` pieces of the same examples in their order.

    The pieces of a batch that cannot be divided equally differ by one example. A batch of fewer
    than ``least`` examples per piece is not divided: it comes ``times`` times and counts once,
    because an optimizer step must have the same number of micro-batches in every case.

    Args:
        collate: of the user's loader.
        times: number of pieces.
        least: fewest examples of a piece.

    >>> SplitCollate(list, times=2)([1, 2, 3, 4])
    Pieces(batches=[[1, 2], [3, 4]], factors=[1.0, 1.0])
    >>> SplitCollate(list, times=2)([1, 2, 3])
    Pieces(batches=[[1, 2], [3]], factors=[1.3333333333333333, 0.6666666666666666])
    >>> SplitCollate(list, times=2)([1])
    Pieces(batches=[[1], [1]], factors=[0.0, 2.0])
    """

    def __init__(self, collate: Collate, times: int, least: int = 1) -> None:
        self.collate = collate
        self.times = times
        self.least = least

    def __call__(self, samples: Sequence[Any]) -> Pieces:
        if isinstance(samples, Mapping):
            raise SplitError(f"a batch of samples is a {type(samples).__name__}. {BY_HAND}")
        total = len(samples)
        if total < self.times * self.least:
            batches = [self.collate(samples) for _ in range(self.times)]
            return Pieces(batches, [0.0] * (self.times - 1) + [float(self.times)])
        batches, factors = [], []
        base, longer = divmod(total, self.times)
        start = 0
        for index in range(self.times):
            size = base + (index < longer)
            batches.append(self.collate(samples[start : start + size]))
            factors.append(self.times * size / total)
            start += size
        return Pieces(batches, factors)


class SplitLoader(DataLoader[Any]):
    """A copy of a user's loader that hands out every batch in pieces; the original stays as it is.

    Made by :func:`split_loader` alone. Samplers, data set and worker processes do what they do
    without it: the copy has another collate function, and takes apart what that returns.

    Attributes:
        whole: the user's loader.
        times: micro-batches of one batch.
        most: batches that an epoch is limited to, before they are split; ``None`` for all.
        factors: of the micro-batches that were handed out and have not been asked for.
    """

    whole: DataLoader[Any]
    times: int
    most: int | None
    factors: deque[float]

    def __iter__(self) -> Any:
        self.factors = deque()
        return self._micro_batches(super().__iter__(), self.factors)

    def _micro_batches(self, batches: Iterator[Pieces], factors: deque[float]) -> Iterator[Any]:
        for index, pieces in enumerate(batches):
            for batch, factor in zip(pieces.batches, pieces.factors, strict=True):
                if batch is not None:  # Lightning skips it without calling a hook
                    factors.append(factor)
                yield batch
            if index + 1 == self.most:
                return

    @property
    def batches(self) -> int | None:
        """Batches of an epoch without a limit, before they are split; ``None`` if unknown."""
        try:
            return super().__len__()
        except (TypeError, NotImplementedError):
            return None

    def __len__(self) -> int:
        batches = super().__len__()
        if self.most is not None:
            batches = min(batches, self.most)
        return self.times * batches


def split_loader(loader: Any, times: int, *, least: int = 1) -> SplitLoader:
    """A copy of ``loader`` whose batches come in ``times`` micro-batches.

    Args:
        loader: of the user, as Lightning has prepared it; or a copy of before, which a
            CombinedLoader of the user's hands out where it is asked again.
        times: micro-batches of one batch.
        least: fewest examples of a micro-batch, where a full batch has as many for each.

    Raises:
        SplitError: the batches of this loader cannot be split.
    """
    loader = original(loader)
    reason = fault(loader, times)
    if reason is not None:
        raise SplitError(reason)
    size = _batch_size(loader)
    if size is None or size < times * least:
        least = 1
    found = copy.copy(loader)
    found.__class__ = _split_class(type(loader))
    found.whole, found.times, found.most, found.factors = loader, times, None, deque()
    found.collate_fn = SplitCollate(loader.collate_fn, times, least)
    found._iterator = None  # persistent workers are the original's
    if type(loader.batch_sampler) is BatchSampler:
        # An adaptive batch size sets the size of the copy alone. DataLoader forbids the plain way.
        object.__setattr__(found, "batch_sampler", copy.copy(loader.batch_sampler))
    return found  # type: ignore[no-any-return]  # its class is set above


def original(loader: Any) -> Any:
    """The user's loader behind a copy; any other loader itself."""
    return loader.whole if isinstance(loader, SplitLoader) else loader


def _split_class(kind: type[DataLoader[Any]]) -> type[SplitLoader]:
    """The class of the copy of a loader of class ``kind``, which stays an instance of it."""
    if kind is DataLoader:
        return SplitLoader
    return types.new_class(f"Split{kind.__name__}", (SplitLoader, kind))


def fault(loader: Any, times: int) -> str | None:
    """Why the batches of a loader cannot be split; ``None`` if they can."""
    name = type(loader).__name__
    if not isinstance(loader, DataLoader):
        return f"{name} is not a torch DataLoader, so its batches cannot be split. {BY_HAND}"
    if loader.batch_sampler is None:
        return f"{name}(batch_size=None) leaves batches to the data set. {BY_HAND}"
    if type(loader).__iter__ is not DataLoader.__iter__ and not hasattr(loader, "state_dict"):
        return f"{name} defines __iter__, which would see a batch before it is split. {BY_HAND}"
    size = _batch_size(loader)
    if size is not None and size % times:
        lower = size // times * times
        sizes = " or ".join(str(near) for near in (lower, lower + times) if near)
        return (
            f"batch_size={size} cannot be divided into {times} equal micro-batches. "
            f"Use batch_size={sizes}, or another split."
        )
    return None


def _batch_size(loader: DataLoader[Any]) -> int | None:
    """The batch size of a loader; ``None`` where a custom batch sampler does not state one."""
    size = getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) else None
