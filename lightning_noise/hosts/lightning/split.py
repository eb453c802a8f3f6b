"""``split=n``: every batch of the training loaders in n micro-batches, whose gradients are
accumulated.

Lightning counts batches in many places. While a fit is open all of them count micro-batches, and
whatever the user gave in batches is multiplied by n, so that optimizer steps, schedules, limits and
validations come when they would come without a split.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.sharded import SHARDED
from lightning_noise.hosts.lightning.split_loader import (
    SplitError,
    SplitLoader,
    original,
    split_loader,
)
from lightning_noise.hosts.lightning.split_refusals import (
    OTHER_POSITION,
    cannot_split,
    refuse_split,
)
from lightning_noise.probes.probe import Probe

PART = "split"  # of the callback's state
WHOLE = 1.0  # factor on the loss of a micro-batch that is an equal part of its batch
UNEQUAL = (
    "the loaders divide a batch in different proportions, so the micro-batches of this step count "
    "alike: in the gradient, examples of a smaller micro-batch weigh more"
)


class _Held(NamedTuple):
    """What is the user's of a trainer while a fit is open.

    Args:
        trainer: of the fit.
        module: of the fit.
        accumulation: ``accumulate_grad_batches``.
        limit: ``limit_train_batches``.
        methods: of the strategy, as they were set on it; ``None`` where its class has them.
        frequencies: of schedulers that count optimizer steps, with their configuration.
    """

    trainer: Any  # L.Trainer does not declare the settings that are changed here
    module: L.LightningModule
    accumulation: int
    limit: int | float
    methods: dict[str, Any]
    frequencies: list[tuple[Any, int]]


class Split:
    """Splits the training batches of a fit, from its set-up to its end.

    Args:
        times: micro-batches of one batch; with 1 nothing is changed.

    Attributes:
        factor: on the loss of the present micro-batch: its examples divided by those of an equal
            part of its batch. 0.0 for one that must not count, whose backward pass is skipped, or
            under a sharded strategy made from a loss of 0.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.factor = WHOLE
        self._held: _Held | None = None
        self._limited: dict[int, int] = {}  # batches of each loader prepared for an epoch
        self._limited_in: int | None = None  # this epoch
        self._saved_times = 1  # in the checkpoint that a fit goes on from
        self._warned_of_norm = self._warned_of_unequal = False

    # ---- the life of a fit ----------------------------------------------------------------------

    def open(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit is set up; its optimizers and loaders are not there yet.

        Raises:
            MisconfigurationException: its batches cannot be split; names the fix.
        """
        self.close()
        if self.times == 1:
            return
        refuse_split(trainer, module, self.times)
        strategy: Any = trainer.strategy
        methods = {name: vars(strategy).get(name) for name in ("process_dataloader", "backward")}
        held = _Held(
            trainer,
            module,
            trainer.accumulate_grad_batches,
            trainer.limit_train_batches,
            methods,
            [],
        )
        self._held = held
        self._limited_in = None
        strategy.process_dataloader = self._processing(strategy.process_dataloader)
        # a rank gathers and reduces shards in its backward pass, and the others wait for it
        is_sharded = isinstance(strategy, SHARDED)
        strategy.backward = self._going_backward(strategy.backward, every_rank=is_sharded)
        held.trainer.accumulate_grad_batches = held.accumulation * self.times
        if isinstance(held.limit, int):
            held.trainer.limit_train_batches = held.limit * self.times

    def fit_starts(self, probes: Iterable[Probe]) -> None:
        """Optimizers and probes are there: schedulers that count batches count micro-batches."""
        if self._held is None:
            return
        # the one other probe that hooks the forward pass sees micro-batches
        if any(probe.watches_forward and not probe.sees_shards for probe in probes):
            rank_zero_warn(
                f"GradientNoiseScale(split={self.times}): a probe that sees single examples gains "
                "nothing by a split. Leave split out, or leave probe at 'auto'."
            )
        for config in self._held.trainer.lr_scheduler_configs:
            if config.interval == "step":
                self._held.frequencies.append((config, config.frequency))
                config.frequency *= self.times

    def train_starts(self, trainer: L.Trainer) -> None:
        """The loaders are there, and so is the position in the run.

        Raises:
            MisconfigurationException: a checkpoint from inside an epoch was split otherwise.
            ValueError: ``val_check_interval`` is larger than the number of batches.
        """
        saved, self._saved_times = self._saved_times, 1
        if saved != self.times and trainer_facts.inside_epoch(trainer):
            raise cannot_split(self.times, OTHER_POSITION.format(saved=saved))
        if self._held is None:
            return
        self._place_validation()
        if _has_batch_norm(self._held.module) and not self._warned_of_norm:
            self._warned_of_norm = True
            rank_zero_warn(
                f"GradientNoiseScale(split={self.times}): BatchNorm in train mode normalises every "
                f"micro-batch by itself, so it sees 1/{self.times} of a batch at a time. All other "
                "layers train as they would without split."
            )

    def epoch_starts(self) -> None:
        """The loaders may have been prepared anew."""
        self._place_validation()

    def batch_starts(self) -> None:
        """A micro-batch is about to go forward: looks up its :attr:`factor`."""
        if self._held is None:
            return
        loaders = trainer_facts.combined_loader(self._held.trainer).flattened
        queues = [loader.factors for loader in loaders if isinstance(loader, SplitLoader)]
        factors = {queue.popleft() for queue in queues if queue}
        self.factor = factors.pop() if len(factors) == 1 else WHOLE
        if factors and not self._warned_of_unequal:
            self._warned_of_unequal = True
            rank_zero_warn(f"GradientNoiseScale(split={self.times}): {UNEQUAL}.")

    def close(self, trainer: L.Trainer | None = None) -> None:
        """Gives trainer, strategy and loaders back as they were; may be called twice.

        With ``trainer`` only if the fit is one of it.
        """
        held = self._held
        if held is None or trainer not in (None, held.trainer):
            return
        self._held, self.factor = None, WHOLE
        for name, method in held.methods.items():
            if method is None:
                vars(held.trainer.strategy).pop(name, None)  # the class's own is visible again
            else:
                setattr(held.trainer.strategy, name, method)
        for config, frequency in held.frequencies:
            config.frequency = frequency
        held.trainer.accumulate_grad_batches = held.accumulation
        held.trainer.limit_train_batches = held.limit
        self._give_loaders_back(held.trainer)

    # ---- what a user of batches sees ------------------------------------------------------------

    @property
    def limit(self) -> int | float | None:
        """The user's ``limit_train_batches``; ``None`` where the trainer's own is the user's."""
        return None if self._held is None else self._held.limit

    def state_dict(self) -> dict[str, Any]:
        """The part of the callback's state that belongs here."""
        return {} if self.times == 1 else {PART: self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up :meth:`state_dict` out of the state of the whole callback."""
        self._saved_times = int(state.get(PART, 1))

    # ---- the strategy's methods -----------------------------------------------------------------

    def _processing(self, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def process_dataloader(dataloader: Any) -> Any:
            held = self._held
            prepared = inner(dataloader)
            if held is None or not held.trainer.training:
                return prepared  # of validation
            least = 2 if _has_batch_norm(held.module) else 1  # one example has no statistics
            try:
                found = split_loader(prepared, self.times, least=least)
            except SplitError as error:
                raise cannot_split(self.times, str(error)) from error
            self.limit_epoch(found)
            return found

        return process_dataloader

    def limit_epoch(self, loader: Any) -> None:
        """Limits an epoch to a share of the batches of a loader, rounded as without a split.

        Once more, after another batch size has been set.

        Raises:
            MisconfigurationException: the share is less than one batch.
        """
        held = self._held
        if held is None or not isinstance(loader, SplitLoader):
            return
        if isinstance(held.limit, int) or held.limit == 1.0:
            return
        batches = loader.batches
        if batches is None:
            return
        loader.most = int(batches * held.limit)
        if loader.most == 0:
            raise cannot_split(
                self.times,
                f"limit_train_batches={held.limit} of {batches} batches is less than one. "
                f"Use at least {1 / batches}.",
            )
        # Lightning would round a share of the micro-batches. The longest of several loaders counts.
        epoch = held.trainer.current_epoch
        if epoch != self._limited_in:
            self._limited.clear()
        self._limited_in = epoch
        self._limited[id(loader)] = loader.most
        held.trainer.limit_train_batches = max(self._limited.values()) * self.times

    def _going_backward(self, inner: Callable[..., Any], *, every_rank: bool) -> Callable[..., Any]:
        def backward(closure_loss: Any, *arguments: Any, **options: Any) -> Any:
            # its examples come again in this step, and count there
            if self.factor == 0.0 and not every_rank:
                return closure_loss
            if self.factor != WHOLE:
                closure_loss = closure_loss * self.factor
            return inner(closure_loss, *arguments, **options)

        return backward

    # ---- the trainer's counts -------------------------------------------------------------------

    def _place_validation(self) -> None:
        """Validation comes after as many batches as without a split."""
        if self._held is None:
            return
        trainer = self._held.trainer
        every, batches = trainer.val_check_interval, trainer.num_training_batches / self.times
        if trainer.val_check_batch is None or trainer.val_check_batch == math.inf:
            return  # by time, or at the end of an epoch without a known end
        if not isinstance(every, int):
            trainer.val_check_batch = self.times * max(1, int(batches * every))
            return
        per_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
        if per_epoch and every > batches:  # Lightning has compared with the micro-batches
            raise ValueError(
                f"val_check_interval={every} must not be larger than the number of training "
                f"batches ({batches:g}). Use a smaller one, or check_val_every_n_epoch=None."
            )
        trainer.val_check_batch = self.times * every

    def _give_loaders_back(self, trainer: L.Trainer) -> None:
        loaders = trainer_facts.combined_loader(trainer)
        if loaders is None or not any(isinstance(one, SplitLoader) for one in loaders.flattened):
            return
        loaders.flattened = [original(loader) for loader in loaders.flattened]
        if loaders.limits is not None:
            loaders.limits = [self._in_batches(limit) for limit in loaders.limits]
        batches = self._in_batches(trainer.num_training_batches)
        trainer_facts.set_training_batches(trainer, batches)
        held = trainer.val_check_batch
        if held is not None:
            trainer.val_check_batch = self._in_batches(held)

    def _in_batches(self, micro_batches: float) -> float:
        if micro_batches == math.inf:
            return micro_batches
        return int(micro_batches) // self.times


def _has_batch_norm(module: L.LightningModule) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())
