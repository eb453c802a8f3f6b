"""The batches of a measurement at frozen weights, and the loader as it was before."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch.utils.data import DataLoader

from lightning_noise.measure.frozen_sample import Batch


class Batches(Iterator[Batch]):
    """The loader, again and again.

    Args:
        loader: can be iterated again and again.
        prepare: what is done to each of its batches.

    Attributes:
        passes: passes over the loader begun.

    Raises:
        ValueError: the loader is empty, or cannot be started again.
    """

    def __init__(self, loader: Iterable[Any], prepare: Callable[[Any], Batch]) -> None:
        self._loader, self._prepare = loader, prepare
        self.passes = 0
        self._iterator: Iterator[Any] = iter(())

    def __next__(self) -> Batch:
        try:
            found = next(self._iterator)
        except StopIteration:
            found = self._first_of_next_pass()
        return self._prepare(found)

    def _first_of_next_pass(self) -> Any:
        self._iterator = iter(self._loader)
        self.passes += 1
        for found in self._iterator:
            return found
        raise ValueError(
            f"loader gave no batch in pass {self.passes}. It must yield batches, and again when it "
            f"is iterated anew."
        )


@contextmanager
def loader_kept(loader: Iterable[Any]) -> Iterator[None]:
    """Puts random states and a running iterator of ``loader`` back, also after an exception."""
    with _random_state_kept(loader), _iterator_kept(loader):
        yield


@contextmanager
def _random_state_kept(loader: Iterable[Any]) -> Iterator[None]:
    """As Lightning's ``isolate_rng``, and the generators that a DataLoader and its samplers own."""
    own = [(generator, generator.get_state()) for generator in _generators(loader)]
    states = _collect_rng_states(include_cuda=torch.cuda.is_available())
    try:
        yield
    finally:
        _set_rng_states(states)
        for generator, state in own:
            generator.set_state(state)


def _generators(loader: Iterable[Any]) -> list[torch.Generator]:
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found:
            found.append(generator)
    return found


@contextmanager
def _iterator_kept(loader: Iterable[Any]) -> Iterator[None]:
    """A DataLoader with persistent workers has one iterator: starting it anew would disturb a
    training that is under way.
    """
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        yield
        return
    kept, loader._iterator = loader._iterator, None  # no public way
    try:
        yield
    finally:
        loader._iterator = kept
