"""The batch size changes in the middle of an epoch: every example is still used once, and the
trainer's counts, its validations and its loaders stay right.
"""

import multiprocessing

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, TrackNoiseScale
from testing.adapting import Keeper, Numbered, Odd, Script, SizedStream, Stream, adapting, run
from testing.toys import Resumable, fit, trainer

EXAMPLES = 192
ALL = list(range(EXAMPLES))
GROW = {4: 8, 8: 16, 16: 12}
BATCHES = [4] * 4 + [8] * 4 + [16] * 4 + [12] * 6 + [8]


def numbered(**arguments):
    return DataLoader(Numbered(EXAMPLES), batch_size=4, **arguments)


def replicas():
    return DistributedSampler(Numbered(EXAMPLES), num_replicas=1, rank=0)


def inside(following=GROW, every=4, **settings):
    return adapting(following, every=every, **settings)


def sizes(module, epoch=0, loader=0):
    """Examples of each batch of an epoch."""
    return [len(batch[loader]) for batch in module.epochs[epoch]["batches"]]


LOADERS = {
    "in order": numbered,
    "shuffled": lambda: numbered(shuffle=True),
    "drop_last": lambda: numbered(drop_last=True),
    "a DistributedSampler": lambda: numbered(sampler=replicas()),
    "a subset": lambda: numbered(sampler=SubsetRandomSampler(ALL)),
    "subclass": lambda: Odd(Numbered(EXAMPLES), 4, True),
    "stateful": lambda: Resumable(Numbered(EXAMPLES), batch_size=4),
    "sized iterable": lambda: DataLoader(SizedStream(EXAMPLES), batch_size=4),
}


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("name", LOADERS)
def test_every_example_once_an_epoch(name):
    module = Keeper()
    run(module, inside(), LOADERS[name](), epochs=2)
    used = BATCHES[:-1] if name == "drop_last" else BATCHES
    assert sizes(module) == used
    assert sizes(module, 1) == [12] * 16
    first, second = module.numbers()
    assert second == ALL and len(first) == len(set(first)) == sum(used)
    assert module.totals() == [len(used), 16]
    assert [kept["steps"] for kept in module.epochs.values()] == [len(used), 16]


def test_shrinking_does_not_truncate_the_epoch():
    module, noise = Keeper(), inside({16: 4})
    loader = DataLoader(Numbered(EXAMPLES), batch_size=16, shuffle=True)
    run(module, noise, loader, epochs=2)
    assert sizes(module) == [16] * 4 + [4] * 32 and sizes(module, 1) == [4] * 48
    assert module.numbers() == [ALL] * 2 and module.totals() == [36, 48]


@pytest.mark.parametrize(
    ("arguments", "ahead"),
    [
        ({"num_workers": 2}, 4),
        ({"num_workers": 1, "prefetch_factor": 3}, 3),
        ({"num_workers": 1, "persistent_workers": True}, 2),
    ],
    ids=["two workers", "three ahead", "persistent"],
)
def test_batches_that_workers_have_drawn_come_at_their_size(arguments, ahead):
    """They are counted as what they are: the noise scale and the history see the real batches."""
    module, noise = Keeper(), inside({4: 8, 8: 16})
    before = len(multiprocessing.active_children())
    run(module, noise, numbered(shuffle=True, **arguments), epochs=2)
    found = sizes(module)
    small = 4 + ahead
    decided = max(4 + 4, small + 1)  # 4 steps later, and not before the first change has arrived
    middle = decided + ahead - small
    full, short = divmod(EXAMPLES - 4 * small - 8 * middle, 16)
    assert found == [4] * small + [8] * middle + [16] * full + [short] * (short > 0)
    assert module.numbers() == [ALL] * 2
    assert module.totals() == module.counts()
    history = noise.state_dict()["adaptation"]["history"]
    assert history[0][1:4] == [4, small, 4.0 * small]
    assert sum(period[3] for period in history) == 2 * EXAMPLES
    assert len(multiprocessing.active_children()) == before


def test_a_stream_without_a_known_end():
    module = Keeper()
    run(module, inside(), DataLoader(Stream(EXAMPLES), batch_size=4), epochs=2)
    # one batch is fetched ahead, to know when the stream ends
    assert sizes(module)[:6] == [4] * 5 + [8]
    assert module.numbers() == [ALL] * 2


def test_accumulation_stays_and_windows_begin_with_the_new_size():
    """Every step is the plain mean over its whole window."""

    class Steps(Keeper):
        seen = ()

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            return self.layer.bias.sum()  # a gradient of one, divided by the accumulation

        def on_before_optimizer_step(self, optimizer):
            self.seen = (*self.seen, self.layer.bias.grad.item())

    module = Steps()
    run(module, inside({12: 24, 24: 36}), numbered(num_workers=1), epochs=1, accumulate=3)
    # decided after 12 batches, of which 2 are drawn ahead: the next window begins after 15
    assert sizes(module) == [4] * 15 + [8] * 12 + [12] * 3
    assert module.epochs[0]["accumulation"] == 3
    assert module.seen == pytest.approx([1.0] * 10)


def test_accumulation_takes_over_at_the_local_limit():
    module = Keeper()
    run(module, inside({4: 8, 8: 16}, max_local_size=8), numbered(), epochs=1)
    assert sizes(module) == [4] * 4 + [8] * 22
    assert module.epochs[0]["accumulation"] == 2
    assert module.epochs[0]["steps"] == 4 + 4 + 9


def test_split_batches_change_between_their_batches():
    module = Keeper()
    callback = GradientNoiseScale(
        adaptive_batch_size=AdaptiveBatchSize(Script({8: 16, 16: 24}), every=4), split=2
    )
    loader = DataLoader(Numbered(EXAMPLES), batch_size=8, shuffle=True)
    run(module, callback, loader, epochs=2)
    assert sizes(module) == [4] * 8 + [8] * 8 + [12] * 8
    assert module.totals() == [24, 16] and module.numbers() == [ALL] * 2
    assert loader.batch_size == loader.batch_sampler.batch_size == 8


def test_several_loaders_change_together():
    module = Keeper()
    loaders = {"a": numbered(), "b": DataLoader(Numbered(96, offset=1000), batch_size=2)}
    run(module, inside({8: 16}), loaders, epochs=2, accumulate=2)
    assert sizes(module) == [4] * 8 + [8] * 20
    assert sizes(module, loader=1) == [2] * 8 + [4] * 20
    assert module.numbers() == [ALL] * 2
    assert module.numbers(1) == [list(range(1000, 1096))] * 2
    assert module.totals() == [28, 24]


class Generated(DataLoader):
    """Hands out batches by code of its own."""

    def __iter__(self):
        yield from super().__iter__()


UNSERVED = {
    "own __iter__": (
        lambda: Generated(Numbered(EXAMPLES), batch_size=4),
        "Generated defines __iter__",
    ),
    "one begins anew": (
        lambda: [numbered(), DataLoader(Numbered(40), batch_size=4)],
        "several loaders have different numbers of batches",
    ),
}


class Several(Keeper):
    def training_step(self, batch, batch_idx):
        parts = batch if len(batch[0]) == 2 else [batch]
        return super().training_step(dict(enumerate(parts)), batch_idx)


@pytest.mark.parametrize("name", UNSERVED)
def test_a_loader_that_cannot_change_inside_an_epoch_does_so_between_epochs(name):
    loaders, reason = UNSERVED[name]
    module = Several()
    with pytest.warns(UserWarning, match=f"{reason}.*only accumulate_grad_batches changes"):
        run(module, inside({4: 8, 8: 16}, every=40), loaders(), epochs=2)
    assert sizes(module) == [4] * 48 and module.epochs[0]["steps"] == 44
    assert sizes(module, 1) == [16] * 12 and module.numbers() == [ALL] * 2


# ---- what the trainer counts --------------------------------------------------------------------


def test_the_progress_bar_shows_the_new_total():
    class Bar(TQDMProgressBar):
        totals = ()

        def on_train_batch_end(self, trainer, *rest):
            super().on_train_batch_end(trainer, *rest)
            self.totals = (*self.totals, self.train_progress_bar.total)

    bar = Bar()
    run(Keeper(), inside({4: 8}), numbered(), epochs=2, enable_progress_bar=True, before=[bar])
    # 4 batches of 4 and 22 of 8; the bar comes before the callback that decides
    assert bar.totals == (48,) * 4 + (26,) * 22 + (24,) * 24


class Validated(Keeper):
    """Keeps how many examples of the epoch were used when a validation began."""

    validated = ()

    def on_validation_start(self):
        kept = self.epochs.get(self.current_epoch, {"batches": []})
        used = sum(len(batch[0]) for batch in kept["batches"])
        self.validated = (*self.validated, used)


VALIDATIONS = {
    # every quarter of 192 examples, at the first batch that reaches it
    0.25: (48, 96, 148, 192, 48, 96, 144, 192),
    1.0: (192, 192),
    # every 5 batches, in each epoch
    5: (24, 80, 148, 60, 120, 180),
}


@pytest.mark.parametrize("interval", VALIDATIONS)
def test_validation_comes_when_the_same_examples_are_used(interval):
    module = Validated()
    val = DataLoader(Numbered(8), batch_size=8)
    settings = {"val_check_interval": interval, "num_sanity_val_steps": 0}
    run(module, inside(), numbered(), epochs=2, val=val, **settings)
    assert sizes(module) == BATCHES
    assert module.validated == VALIDATIONS[interval]


def test_validation_counts_batches_across_epochs():
    module = Validated()
    val = DataLoader(Numbered(8), batch_size=8)
    settings = {"val_check_interval": 10, "check_val_every_n_epoch": None}
    run(module, inside(), numbered(), epochs=2, val=val, num_sanity_val_steps=0, **settings)
    assert module.validated == (4 * 4 + 8 * 4 + 16 * 2, 12, 132)  # 19 batches, then 16


@pytest.mark.parametrize(
    ("limit", "used"),
    [(10, [4] * 4 + [8] * 4 + [16] * 2), (0.5, [4] * 4 + [8] * 4 + [16] * 3)],
)
def test_limited_epochs(limit, used):
    """A number limits the batches, a share the examples: half of 192 is 96."""
    module = Keeper()
    run(module, inside(), numbered(), epochs=1, limit_train_batches=limit)
    assert sizes(module) == used and module.totals() == [len(used)]


def test_max_steps_counts_optimizer_steps():
    module = Keeper()
    fitted = run(module, inside(), numbered(), epochs=2, max_steps=10)
    assert fitted.global_step == 10 and sizes(module) == BATCHES[:10]


def test_schedules_by_epoch_step_once_an_epoch():
    class Scheduled(Keeper):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    fitted = run(Scheduled(), inside(), numbered(), epochs=3)
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.125)


def test_the_rate_follows_with_the_first_batch_of_the_new_size():
    class Rates(Keeper):
        rates = ()

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            return 1.0 * self.layer.bias.sum()

        def on_before_zero_grad(self, optimizer):
            self.rates = (*self.rates, self.layer.bias.item())

    module = Rates()
    noise = inside({8: 16}, learning_rate="linear")
    run(module, noise, numbered(num_workers=1), epochs=1, accumulate=2)
    steps = [a - b for a, b in zip(module.rates, module.rates[1:], strict=False) if a != b]
    assert sizes(module) == [4] * 10 + [8] * 19
    assert steps == pytest.approx([0.01] * 5 + [0.02] * 9, abs=1e-6)


# ---- what is given back -------------------------------------------------------------------------


class Fails(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index == 9:
            raise RuntimeError("stopped by the test")


@pytest.mark.parametrize("fails", [False, True])
def test_loaders_are_given_back_also_after_an_error(fails):
    module, loader = Keeper(), numbered(shuffle=True)
    own = loader.batch_sampler
    fitted = trainer(inside(), *([Fails()] if fails else []), epochs=2, accumulate=1)
    if fails:
        with pytest.raises(RuntimeError, match="stopped by the test"):
            fitted.fit(module, loader)
    else:
        fitted.fit(module, loader)
    assert loader.batch_sampler is own and own.batch_size == loader.batch_size == 4
    assert "process_dataloader" not in vars(fitted.strategy)
    assert "run" not in vars(fitted.fit_loop.epoch_loop.automatic_optimization)
    assert fitted.reload_dataloaders_every_n_epochs == 0


def test_several_fits_of_one_trainer():
    module, loader, noise = Keeper(), numbered(shuffle=True), inside({4: 8})
    fitted = trainer(noise, epochs=1, accumulate=1)
    fitted.fit(module, loader)
    fitted.fit_loop.max_epochs = 2
    fitted.fit(module, loader)
    assert sizes(module) == [4] * 4 + [8] * 22 and sizes(module, 1) == [8] * 24
    assert module.numbers() == [ALL] * 2 and loader.batch_size == 4


def test_one_loader_for_training_and_validation():
    module, loader = Keeper(), numbered()
    run(module, inside({4: 8}), loader, epochs=2, val=loader, num_sanity_val_steps=0)
    assert sizes(module) == [4] * 4 + [8] * 22
    assert all(set(kept["val"]) == {4} for kept in module.epochs.values())


def test_a_sampler_with_replacement_draws_as_many_as_it_says():
    module = Keeper()
    sampler = WeightedRandomSampler(torch.ones(EXAMPLES), 100)
    run(module, inside({4: 8}), numbered(sampler=sampler), epochs=1)
    assert sizes(module) == [4] * 4 + [8] * 10 + [4]


def test_a_batch_sampler_of_torch_s_with_a_sampler_of_its_own():
    """The loader itself knows neither its length nor that the last batch is dropped."""
    sampler = RandomSampler(Numbered(EXAMPLES), num_samples=60)
    loader = DataLoader(Numbered(EXAMPLES), batch_sampler=BatchSampler(sampler, 4, True))
    module = Keeper()
    run(module, inside({4: 8}), loader, epochs=2)
    assert sizes(module) == [4] * 4 + [8] * 5 and sizes(module, 1) == [8] * 7
    assert module.totals() == [9, 7]


def test_a_sampler_without_a_length():
    class Endless(Sampler):
        def __iter__(self):
            return iter(ALL)

    module = Keeper()
    run(module, inside({4: 8}), numbered(sampler=Endless()), epochs=2)
    assert sizes(module)[:6] == [4] * 5 + [8] and module.numbers() == [ALL] * 2


def test_a_share_of_split_batches_changes_between_epochs():
    settings = AdaptiveBatchSize(Script({8: 16, 16: 32}), every=10)
    callback = GradientNoiseScale(adaptive_batch_size=settings, split=2)
    module, loader = Keeper(), DataLoader(Numbered(EXAMPLES), batch_size=8)
    with pytest.warns(UserWarning, match="limit_train_batches is a share of the epoch"):
        run(module, callback, loader, epochs=2, limit_train_batches=0.5)
    assert sizes(module) == [4] * 24 and module.epochs[0]["steps"] == 11
    assert sizes(module, 1)[0] == 16


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (AdaptiveBatchSize(), 20),  # LeastTime
        (AdaptiveBatchSize(every="epoch"), None),
        (AdaptiveBatchSize(advise_only=True), None),
        (AdaptiveBatchSize(TrackNoiseScale()), None),
        (AdaptiveBatchSize(TrackNoiseScale(), within_epoch=True), 50),
        (AdaptiveBatchSize(within_epoch=True), 50),
        (AdaptiveBatchSize(within_epoch=True, every=7), 7),
    ],
)
def test_how_often_a_decision_falls_inside_an_epoch(settings, steps):
    assert settings.steps_between == steps


def test_what_is_decided_with_the_last_batches_drawn_is_not_printed(capsys):
    """Two workers have drawn all batches of the only epoch when the decision falls."""
    loader = DataLoader(Numbered(32), batch_size=4, num_workers=2)
    fit(Keeper(), loader, inside({4: 8}), epochs=1, accumulate=1)
    assert "global size 4 → 8" not in capsys.readouterr().out
