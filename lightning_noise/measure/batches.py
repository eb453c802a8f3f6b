"""How many examples a batch holds."""

import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.reasons import CannotMeasureError, Severity
from lightning_noise.measure.skips import NO_SIZE

BatchSizeFn = Callable[[Any], Any]


class BatchSizeError(NoiseScaleError, ValueError):
    """The number of examples in a batch cannot be determined."""


class BatchSize(NamedTuple):
    """Examples in a batch.

    Args:
        size: in the user's unit; ``None`` where it cannot be determined.
        rows: length of its batch dimension, where ``size`` counts something else.
    """

    size: float | None
    rows: int | None = None


class BatchSizes:
    """Counts the examples of batches by the user's function, or by the length of their first
    tensor.

    Args:
        batch_size_fn: batch → number of examples (tokens, nodes, …), or its dotted path.
        warn: how to report a batch whose size cannot be determined.

    Attributes:
        known: whether the size of a batch has been determined; until then it is an error if it
            cannot be.
    """

    def __init__(
        self,
        batch_size_fn: BatchSizeFn | str | None,
        warn: Callable[[str], None],
    ) -> None:
        self._fn = resolve(batch_size_fn)
        self._warn = warn
        self.known = False

    def count(self, batch: Any) -> BatchSize:
        """The size of the next batch.

        Raises:
            CannotMeasureError: it cannot be determined, and none has been before.
        """
        try:
            size = local_size(batch, self._fn)
        except BatchSizeError as error:
            if not self.known:
                # the error contains its own fix
                reason = NO_SIZE._replace(severity=Severity.REFUSE, text=str(error), fix="")
                raise CannotMeasureError([reason]) from error
            self._warn(f"this step is skipped: {error}")
            return BatchSize(None)
        self.known = True
        if self._fn is None:
            return BatchSize(size)
        return BatchSize(size, rows(batch, size))


def resolve(
    function: Callable[..., Any] | str | None,
    argument: str = "batch_size_fn",
) -> Callable[..., Any] | None:
    """A callable from a callable or from a dotted path.

    Raises:
        ValueError: the path leads nowhere or to something that cannot be called.
    """
    if not isinstance(function, str):
        return function
    try:
        found = pkgutil.resolve_name(function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{argument}={function!r} cannot be imported ({error}). Give a dotted path such as "
            "'my_package.count'."
        ) from error
    if not callable(found):
        raise ValueError(f"{argument}={function!r} must name a callable, but it is {found!r}.")
    return found  # type: ignore[no-any-return]  # a callable: see above


def local_size(batch: Any, batch_size_fn: BatchSizeFn | None) -> float:
    """Number of examples in a batch: what ``batch_size_fn`` returns, else the length of the first
    tensor that has one.

    Raises:
        BatchSizeError: it cannot be determined, or the function does not return a finite number
            above 0.

    >>> import torch
    >>> local_size({"x": torch.zeros(8, 3), "y": torch.zeros(8)}, None)
    8
    """
    if batch_size_fn is None:
        found = rows(batch)
        if found is not None:
            return found
        raise BatchSizeError(
            f"the number of examples in a batch of type {type(batch).__name__} cannot be "
            "determined: it holds no tensor with a first dimension. Pass batch_size_fn, a function "
            "from the batch to its number of examples (or tokens)."
        )
    try:
        size = batch_size_fn(batch)
        if isinstance(size, Tensor) and size.numel() == 1:
            size = size.item()
    except Exception as error:  # the user's function may raise anything
        raise BatchSizeError(f"batch_size_fn raised {type(error).__name__}: {error}") from error
    if not _is_size(size):
        raise BatchSizeError(
            f"batch_size_fn must return a finite number > 0, but it returned {size!r}."
        )
    if isinstance(size, int):
        return size
    return float(size)


def _is_size(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value) and float(value) > 0


def rows(batch: Any, size: float | None = None) -> int | None:
    """Length of the first tensor of a batch that has one; of a packed sequence, its number of
    sequences.

    If any tensor has the length ``size``, which the user's function returned, that is returned.
    """
    lengths = list(_lengths(batch))
    if size is not None and size in lengths:
        return int(size)
    return next(iter(lengths), None)


def _lengths(batch: Any) -> Iterator[int]:
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) > 0:
            yield len(leaf)


def leaves(batch: Any) -> Iterator[Any]:
    """All that a nested batch, or a nest of loaders, holds."""
    if isinstance(batch, PackedSequence):
        sequences = int(batch.batch_sizes[0])  # on the host, wherever the data are
        batch = batch.batch_sizes.new_empty(sequences)
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if is_dataclass(batch) and not isinstance(batch, type):
        batch = [getattr(batch, field.name) for field in fields(batch)]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        for item in batch:
            yield from leaves(item)
    else:
        yield batch
