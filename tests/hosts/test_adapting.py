"""The batch size changes between epochs in every loader situation, and nothing is lost, kept or
left changed.
"""

import contextlib
import gc
import math
import multiprocessing
import weakref

import lightning as L
import pytest
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale
from testing.adapting import (
    EXAMPLES,
    Keeper,
    Numbered,
    Odd,
    Script,
    SizedStream,
    Stream,
    adapting,
    numbered,
    own_sampler,
    run,
)
from testing.toys import trainer

GROW = {4: 8, 8: 16, 16: 12}
SIZES = [4, 8, 16, 12]
ALL = list(range(EXAMPLES))


class FromModule(Keeper):
    def train_dataloader(self):
        return numbered(shuffle=True)


class Kept(Keeper):
    """Hands out the same loader every time it is asked."""

    def train_dataloader(self):
        self.kept = getattr(self, "kept", None) or numbered()
        return self.kept


class First(Keeper):
    """Given a list of batches of which there is one."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx)


class Module(L.LightningDataModule):
    def train_dataloader(self):
        return numbered(shuffle=True)

    def val_dataloader(self):
        return numbered(6)


LOADERS = {
    "passed": lambda: (Keeper(), numbered()),
    "shuffled": lambda: (Keeper(), numbered(shuffle=True)),
    "module": lambda: (FromModule(), None),
    "module, kept": lambda: (Kept(), None),
    "datamodule": lambda: (Keeper(), Module()),
    "iterable": lambda: (Keeper(), DataLoader(Stream(), batch_size=4)),
    "sized iterable": lambda: (Keeper(), DataLoader(SizedStream(), batch_size=4)),
    "subclass": lambda: (Keeper(), Odd(Numbered(), 4, True)),
    "own batch sampler": lambda: (Keeper(), own_sampler()),
    "drop_last": lambda: (Keeper(), numbered(drop_last=True)),
    "workers": lambda: (Keeper(), numbered(num_workers=2)),
    "iterable, worker": lambda: (Keeper(), DataLoader(Stream(), batch_size=4, num_workers=1)),
    "persistent workers": lambda: (Keeper(), numbered(num_workers=2, persistent_workers=True)),
    "a CombinedLoader": lambda: (First(), CombinedLoader([numbered()], "max_size_cycle")),
}


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("name", LOADERS)
def test_every_example_once_an_epoch_at_the_size_decided(name):
    module, data = LOADERS[name]()
    run(module, adapting(GROW), data)
    assert module.sizes() == SIZES
    assert module.numbers() == [ALL] * 4
    assert module.counts() == [EXAMPLES // size for size in SIZES]
    endless = "iterable" in name and name != "sized iterable"
    assert module.totals() == [math.inf if endless else EXAMPLES // size for size in SIZES]


def test_a_factor_for_each_of_several_loaders():
    module = Keeper()
    loaders = {"a": numbered(4), "b": DataLoader(Numbered(48, offset=1000), batch_size=2)}
    run(module, adapting({8: 16, 16: 32, 32: 24}), loaders, accumulate=2)
    assert module.sizes(0) == SIZES and module.sizes(1) == [size // 2 for size in SIZES]
    assert module.numbers(0) == [ALL] * 4 and module.numbers(1) == [list(range(1000, 1048))] * 4
    assert [loader.batch_size for loader in loaders.values()] == [4, 2]


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_loader_for_both_training_and_validation_changes_for_training_only(sanity):
    module, loader = Keeper(), numbered(8)
    run(module, adapting({8: 16, 16: 4}), loader, epochs=3, num_sanity_val_steps=sanity, val=loader)
    assert module.sizes() == [8, 16, 4] and module.numbers() == [ALL] * 3
    assert all(kept["val"][-12:] == [8] * 12 for kept in module.epochs.values())
    assert loader.batch_size == loader.batch_sampler.batch_size == 8


def test_several_loaders_keep_their_proportions_and_none_repeats():
    """Half of 11 is 5, and with 5 the second loader would have a batch more, for which the first
    begins anew.
    """
    module = Keeper()
    loaders = {"a": numbered(8), "b": DataLoader(Numbered(48), batch_size=4)}
    run(module, adapting({16: 24, 24: 22, 20: 74}), loaders, accumulate=2)
    assert module.sizes(0) == [8, 12, 12, 12] and module.sizes(1) == [4, 6, 6, 6]
    run(module := Keeper(), adapting({16: 74, 72: 22, 24: 17}), loaders, accumulate=2)
    assert module.sizes(0) == [8, 36, 12, 10] and module.sizes(1) == [4, 18, 6, 5]
    assert module.numbers(0) == [ALL] * 4 and module.numbers(1) == [list(range(48))] * 4


def test_shrinking_does_not_truncate_the_epoch():
    module = Keeper()
    run(module, adapting({16: 4, 4: 3, 3: 24}), numbered(16))
    assert (
        module.sizes() == [16, 4, 3, 24]
        and module.counts() == [6, 24, 32, 4]
        and module.numbers() == [ALL] * 4
    )


@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes_stay_as_many(persistent):
    class Counter(L.Callback):
        alive = ()

        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 1:
                self.alive = (*self.alive, len(multiprocessing.active_children()))

    class Fresh(Keeper):
        def train_dataloader(self):
            return numbered(num_workers=1, persistent_workers=persistent)

    counter, before = Counter(), len(multiprocessing.active_children())
    module = Fresh()
    run(module, adapting({4: 5, 5: 6, 6: 8, 8: 12, 12: 16}), epochs=6, callbacks=[counter])
    assert module.sizes() == [4, 5, 6, 8, 12, 16]
    assert counter.alive == (before + 1,) * 6


def test_totals_are_right_with_the_callback_after_the_progress_bar():
    class Bar(L.pytorch.callbacks.ProgressBar):
        def __init__(self):
            super().__init__()
            self.totals = []

        def disable(self):
            pass

        def on_train_epoch_start(self, trainer, module):
            self.totals.append(self.total_train_batches)

    bar = Bar()
    run(Keeper(), adapting(GROW), numbered(), enable_progress_bar=True, before=[bar])
    assert bar.totals == [24, 12, 6, 8]


@pytest.mark.parametrize("reload", [0, 1])
def test_validation_loaders_and_their_interval(reload):
    """A quarter of an epoch stays a quarter; validation loaders are never touched, also where they
    are prepared anew.
    """
    module, data, again = Keeper(), Module(), {"reload_dataloaders_every_n_epochs": reload}
    run(module, adapting(GROW), data, val_check_interval=0.25, num_sanity_val_steps=2, **again)
    assert module.sizes() == SIZES
    seen = [kept["val"] for kept in module.epochs.values()]
    assert [len(epoch) for epoch in seen] == [
        2 + 64,
        64,
        96,
        64,
    ]  # a quarter of 6 batches is 1 for Lightning
    assert all(size == 6 for epoch in seen for size in epoch)


def test_an_integer_val_check_interval_is_never_more_than_an_epoch():
    """Lightning raises in mid-run where it is; accumulation takes over."""
    module = Keeper()
    fitted = run(
        module,
        adapting({4: 16, 16: 32}),
        Module(),
        epochs=3,
        val_check_interval=10,
        num_sanity_val_steps=0,
    )
    assert module.sizes() == [4, 8, 8] and module.totals() == [24, 12, 12]
    assert [kept["accumulation"] for kept in module.epochs.values()] == [1, 2, 4]
    assert [len(kept["val"]) // 16 for kept in module.epochs.values()] == [2, 1, 1]
    assert fitted.accumulate_grad_batches == 1


@pytest.mark.parametrize("limit", [0.5, 6])
def test_limited_epochs(limit):
    module = Keeper()
    run(module, adapting({4: 8, 8: 64}), numbered(), epochs=3, limit_train_batches=limit)
    assert module.sizes() == [4, 8, {0.5: 48, 6: 64}[limit]]
    assert module.counts() == {0.5: [12, 6, 1], 6: [6, 6, 2]}[limit]


def test_no_more_is_accumulated_than_an_epoch_has():
    module = Keeper()
    run(module, adapting({4: 64}, max_local_size=4), numbered(), epochs=2, limit_train_batches=6)
    assert [kept["accumulation"] for kept in module.epochs.values()] == [1, 6]


class Fails(L.Callback):
    def __init__(self, hook, epoch=1):
        setattr(self, hook, lambda trainer, *_: self.fail(trainer, epoch))

    def fail(self, trainer, epoch):
        if trainer.current_epoch == epoch:
            raise RuntimeError("stopped by the test")


@pytest.mark.parametrize(
    "hook",
    [None, "on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_train_epoch_start"],
)
def test_loaders_and_settings_are_given_back(hook):
    module, loader, callback = Keeper(), own_sampler(), adapting(GROW, max_local_size=10)
    fitted = trainer(
        *([] if hook is None else [Fails(hook, 0 if hook == "on_train_start" else 1)]),
        callback,
        epochs=3,
        accumulate=1,
    )
    fitted.reload_dataloaders_every_n_epochs = 2
    module.train_dataloader = lambda: loader
    with (
        contextlib.nullcontext()
        if hook is None
        else pytest.raises(RuntimeError, match="stopped by the test")
    ):
        fitted.fit(module)
    assert loader.batch_sampler.batch_size == 4 and loader.batch_size is None
    assert fitted.accumulate_grad_batches == 1 and fitted.reload_dataloaders_every_n_epochs == 2
    assert "process_dataloader" not in vars(fitted.strategy)
    assert not fitted.optimizers or not fitted.optimizers[0]._optimizer_step_pre_hooks
    assert not any(p._backward_hooks for p in module.parameters())


@pytest.mark.slow
def test_nothing_strong_holds_an_old_loader():
    class Fresh(Keeper):
        loaders = ()

        def train_dataloader(self):
            loader = numbered()
            self.loaders = (*self.loaders, weakref.ref(loader))
            return loader

        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx > 0:
                return
            gc.collect()
            self.alive = sum(loader() is not None for loader in self.loaders)

    module = Fresh()
    run(module, adapting(GROW), epochs=7)
    assert (
        len(module.loaders) == 4 and module.alive == 1
    )  # asked for anew where the size changes, and only there


def test_accumulation_takes_over_at_the_local_limit():
    module = Keeper()
    run(module, adapting({4: 8, 8: 16, 16: 24, 24: 4}, max_local_size=8), numbered(), epochs=5)
    kept = list(module.epochs.values())
    assert module.sizes() == [4, 8, 8, 8, 4] and [k["accumulation"] for k in kept] == [
        1,
        1,
        2,
        3,
        1,
    ]
    assert [k["steps"] for k in kept] == [24, 12, 6, 4, 24] and module.numbers() == [ALL] * 5


def test_within_an_epoch_accumulation_changes_where_windows_align():
    """Memory holds no larger micro-batch. Every step is the plain mean over its whole window: no
    stale gradient, none lost.
    """

    class Steps(Keeper):
        seen = ()

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            return self.layer.bias.sum()  # a gradient of one, divided by the accumulation

        def on_before_optimizer_step(self, optimizer):
            self.seen = (
                *self.seen,
                (self.trainer.accumulate_grad_batches, self.layer.bias.grad.item()),
            )

    module = Steps()
    callback = GradientNoiseScale(
        probe="micro_batches",
        adaptive_batch_size=AdaptiveBatchSize(Script({8: 12}), within_epoch=True, max_local_size=4),
    )
    run(module, callback, DataLoader(Numbered(1200), batch_size=4), epochs=1, accumulate=2)
    counts = [count for count, _ in module.seen]
    assert (
        counts == [2] * 51 + [3] * 66
    )  # decided after 50 steps, 100 batches; both windows end after 102
    assert all(gradient == pytest.approx(1) for _, gradient in module.seen)
    assert callback.state_dict()["adaptation"]["current"] == [4, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Numbered, [(4, 50, 200), (8, 50, 400), (16, 88, 1400)]),
        (Stream, [(4, 51, 204), (8, 50, 400), (16, 88, 1396)]),  # one batch is fetched ahead
    ],
)
def test_within_an_epoch_from_one_micro_batch(data, expected):
    module = Keeper()
    callback = adapting({4: 8, 8: 16}, within_epoch=True)
    run(module, callback, DataLoader(data(2000), batch_size=4), epochs=1)
    periods = callback.state_dict()["adaptation"]["history"]
    assert [(p[1], p[2], p[3]) for p in periods] == expected
    assert module.numbers() == [list(range(2000))]
    assert callback.estimate().steps == sum(steps for _, steps, _ in expected)
