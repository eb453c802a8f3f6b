"""The running epoch of a fit whose batch size changes in the middle of epochs."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from lightning_noise.hosts.distributed import greatest_over_ranks
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.epoch_counts import EpochCounts
from lightning_noise.hosts.lightning.epoch_sizes import EpochSizes, Stretch, first_batch_of_both
from lightning_noise.hosts.lightning.served_loaders import (
    examples_of,
    not_proportionate,
    not_served,
    serve,
    served,
)
from lightning_noise.hosts.lightning.sized_batches import Randomness
from lightning_noise.hosts.lightning.split import Split

PART = "inside_epoch"  # of the callback's state
SHARE = "limit_train_batches is a share of the epoch, whose batches have been split"
FETCHES = "training_step takes the iterator of batches and draws from it itself"


class InsideEpoch:
    """Knows the sizes of the batches of the running epoch, its position and its counts.

    It keeps the position of the training loaders too, so that a run which is resumed in the middle
    of an epoch uses every example once.

    Args:
        split: of the batches, which are counted here as without it.
        ratio: gives the ratio to the original batch sizes with which the next epoch begins.
    """

    def __init__(self, split: Split, ratio: Callable[[], Fraction]) -> None:
        self.sizes = EpochSizes()
        self._split = split
        self._ratio = ratio
        self._trainer: L.Trainer | None = None
        self._state: dict[str, Any] = {}  # of a checkpoint; after a fit, what the fit left
        self._prepared = False  # the sizes are those of this fit
        self._between = False  # the epoch has ended and no other has begun
        self._orders: list[list[str | None] | None] = []  # of the loaders, to go on with
        self._next_order = 0

    # ---- the life of a fit ----------------------------------------------------------------------

    def take(self, trainer: L.Trainer) -> None:
        """A fit begins, before its loaders are prepared."""
        self._trainer = trainer
        self._prepared = False
        self._between = False

    def release(self) -> None:
        """The fit is over. Whoever keeps its loaders restores them."""
        self._state = self.state_dict()  # a checkpoint may be saved after an error
        self._trainer = None

    def restart(self, *, between: bool) -> None:
        """The next epoch begins anew, at the ratio that is wanted then."""
        self.sizes.restart(self._ratio())
        self._prepared = True
        self._between = between
        self._orders = []

    def begin_epoch(self) -> None:
        """An epoch has begun."""
        self._between = False
        if self.sizes.changes:  # nobody announced the end of the last one: no more is decided
            self.restart(between=False)
            self._counts.set_batches(self._batches(self._stretches))

    def prepare(self) -> bool:
        """Takes up where the fit begins; returns whether loaders that exist must be prepared again.

        A strategy may have restored the checkpoint after the loaders were prepared.
        """
        before = (self.sizes.state_dict(), self.sizes.begins_at)
        was_prepared = self._prepared
        self.restart(between=False)
        if self._trainer is not None and trainer_facts.inside_epoch(self._trainer):
            saved = self._state.get(PART)
            if saved is not None:
                self.sizes.load_state_dict(saved["ratios"])
                self._orders = list(saved["orders"])
            done = trainer_facts.batches_trained(self._trainer)
            self.sizes.go_to(done // self._split.times)
        return was_prepared and before != (self.sizes.state_dict(), self.sizes.begins_at)

    def forget(self) -> None:
        """What a checkpoint holds is of loaders of another batch size."""
        self._state = {}

    # ---- loaders --------------------------------------------------------------------------------

    def serve(self, loader: DataLoader[Any], size: int) -> None:
        """Makes a loader, whose own batch size is ``size``, follow the sizes of the epoch."""
        if not self._prepared:
            self.prepare()
        if not_served(loader) is None:
            sampler = serve(loader, size, self.sizes)
            order = None
            if self._orders:
                order = self._orders[self._next_order % len(self._orders)]
            if order is not None:
                sampler.randomness = Randomness.from_plain(order)
        self._next_order += 1
        self._announce_epoch(loader)

    def _announce_epoch(self, loader: DataLoader[Any]) -> None:
        """On resuming, worker processes draw batches before Lightning gives the sampler its epoch,
        and so they would draw those of another one.
        """
        epoch = trainer_facts.epoch_to_resume(self._running)
        if epoch is None:
            return
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)

    @property
    def misses_loaders(self) -> bool:
        """Whether a loader was prepared too early to follow the sizes of the epoch."""
        for loader in self._loaders:
            if served(loader) is None and not_served(loader) is None:
                return True
        return False

    def reason(self) -> str:
        """Why the loaders cannot change their batch size inside an epoch; "" where they can."""
        if trainer_facts.steps_fetch_batches(self._running):
            return FETCHES
        limit = self._split.limit
        if isinstance(limit, float) and limit != 1.0:
            return SHARE
        loaders = self._loaders
        for loader in loaders:
            reason = not_served(loader)
            if reason is not None:
                return reason
        return not_proportionate(loaders)

    @property
    def _running(self) -> L.Trainer:
        if self._trainer is None:
            raise RuntimeError("GradientNoiseScale: no fit is running.")
        return self._trainer

    @property
    def _loaders(self) -> list[DataLoader[Any]]:
        return list(trainer_facts.combined_loader(self._running).flattened)

    # ---- changes --------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether batches of this epoch are still to be drawn, which could get another size."""
        return self._drawn_here() < self._batches(self._stretches)

    def change(self, ratio: Fraction, windows: tuple[int, int]) -> None:
        """Later batches have ``ratio`` times the original size, where the epoch has any.

        Args:
            ratio: to the original sizes.
            windows: micro-batches per step, now and from then on.
        """
        drawn = self._drawn_here()
        if self._running.world_size > 1:
            drawn = greatest_over_ranks(drawn, self._running.strategy.root_device)
        first = first_batch_of_both(drawn, windows)
        if first < self._batches(self._stretches):
            self.sizes.change(first, ratio)
            self.settle()

    def arrives(self, batches: int) -> bool:
        """Whether the latest size is that of the next batch, after ``batches`` of this epoch."""
        return 0 < batches == self.sizes.latest_change

    def reason_to_stay(self) -> str:
        """Why the loaders cannot go back to an earlier batch of the epoch; "" where they can."""
        if self._running.world_size > 1:
            return "the other ranks wait for this one"
        if self._split.times > 1:
            return "its batch has been split"
        if len(self._loaders) > 1:
            return "several loaders would have to go back together"
        sampler = served(self._loaders[0])
        if sampler is None or not sampler.skips or not trainer_facts.knows_batches(self._running):
            return "the loader cannot go back to its examples"
        return self.reason()

    def go_back(self, batch: int) -> None:
        """Draws anew from this batch of the epoch on, at the ratio that is wanted now."""
        self.sizes.change(batch, self._ratio())
        self.sizes.go_to(batch)
        self._settle()
        trainer_facts.begin_loaders_anew(self._running)

    def settle(self) -> None:
        """Brings the trainer's counts in line with the sizes of the epoch."""
        if self.sizes.changes and not self.reason():
            self._settle()

    def _settle(self) -> None:
        stretches = self._stretches
        counts = self._counts
        batches = self._batches(stretches)
        counts.set_batches(batches)
        # a validation that is due after the latest batch has not been run
        done = max(0, self._done - 1)
        whole = self._batches(stretches[:1])
        counts.place_validation(done, batches, whole, stretches)

    def _drawn_here(self) -> int:
        drawn = [self._done]
        for loader in self._loaders:
            sampler = served(loader)
            if sampler is not None:
                drawn.append(sampler.drawn)
        return max(drawn)

    @property
    def _done(self) -> int:
        return trainer_facts.batches_done(self._running) // self._split.times

    @property
    def _stretches(self) -> list[Stretch]:
        sampler = served(self._loaders[0])
        if sampler is None:
            return [Stretch(0, 1)]
        return sampler.stretches

    @property
    def _counts(self) -> EpochCounts:
        limit = self._split.limit
        if limit is None:
            limit = self._running.limit_train_batches
        return EpochCounts(self._running, self._split.times, limit)

    def _batches(self, stretches: list[Stretch]) -> float:
        first = self._loaders[0]
        sampler = served(first)
        if sampler is None:
            return self._running.num_training_batches / self._split.times
        examples = examples_of(first)
        return self._counts.batches(examples, stretches, drop_last=sampler.drop_last)

    # ---- state ----------------------------------------------------------------------------------

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up :meth:`state_dict` out of the state of the whole callback."""
        self._state = {}
        if PART in state:
            self._state = {PART: state[PART]}

    def state_dict(self) -> dict[str, Any]:
        """The sizes and the order of the running epoch; nothing between two epochs."""
        if self._trainer is None:
            return self._state
        if not self._prepared or self._between:
            return {}
        loaders = []
        if trainer_facts.combined_loader(self._trainer) is not None:
            loaders = self._loaders
        orders = [self._order(loader) for loader in loaders]
        return {PART: {"ratios": self.sizes.state_dict(), "orders": orders}}

    def _order(self, loader: DataLoader[Any]) -> list[str | None] | None:
        sampler = served(loader)
        if sampler is None or sampler.randomness is None:
            return None
        if self._running.world_size > 1:
            return None  # rank 0 saves for all; a DistributedSampler has one order everywhere
        return sampler.randomness.to_plain()
