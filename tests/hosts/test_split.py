"""``split=n``: the numbers of accumulation, the training of a run without it, and nothing left
changed.
"""

import functools
import itertools
import math
import multiprocessing

import lightning as L
import pytest
import pytorch_lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, Key
from lightning_noise.hosts.lightning.split_loader import SplitError
from testing.adapting import Keeper, Numbered, Odd, Script, SizedStream, Stream
from testing.callbacks import IGNORE_OTHER_CALLBACKS, Stop
from testing.reference import probes, skipped
from testing.splitting import Exact, exact_data, parameters
from testing.toys import Regression, Resumable, data, fit, trainer
from testing.worlds.twin_worlds import TwinRegression

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.001),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
}


def trained(loader, callback, *, module=None, seed=3, **arguments):
    """The module and its trainer after a fit on shuffled data."""
    L.seed_everything(seed, verbose=False)
    module = module or Exact()
    return module, fit(module, loader, callback, **{"accumulate": 1, "epochs": 3, **arguments})


# ---- the numbers and the training ---------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 4])
def test_the_numbers_are_those_of_smaller_batches_that_are_accumulated(times):
    split, smaller = GradientNoiseScale(split=times), GradientNoiseScale()
    trained(exact_data(shuffle=True), split)
    trained(exact_data(shuffle=True, local_size=8 // times), smaller, accumulate=times)
    found, expected = split.estimate(), smaller.estimate()
    assert found.steps == expected.steps == 24
    assert probes(split) == probes(smaller) == ["micro_batches"]
    assert (found.noise, found.signal) == (
        pytest.approx(expected.noise, rel=1e-12),
        pytest.approx(expected.signal, rel=1e-12),
    )
    assert split.verdict().global_size == 8 and split.verdict().data_size == 64


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_weights_are_those_of_a_run_without_split(name, accumulate):
    """61 = 7 · 8 + 5 examples: the last batch is divided into 3 and 2."""
    modules = []
    for times in (1, 2):
        module = Exact(OPTIMIZERS[name])
        callback = GradientNoiseScale(split=times, probe="auto" if times > 1 else "examples")
        loader = exact_data(examples=61, shuffle=True)
        trained(loader, callback, module=module, accumulate=accumulate)
        modules.append(module)
    whole, halves = modules
    assert set(whole.sizes) == {8, 5} and set(halves.sizes) == {4, 3, 2}
    assert torch.allclose(parameters(whole), parameters(halves), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rest", [1, 2, 3, 4, 5, 6, 7])
def test_every_length_of_a_short_last_batch(rest):
    """Also one of fewer examples than micro-batches: it comes as often, and counts once."""
    ends, steps = [], []
    for times in (1, 4):
        callback = GradientNoiseScale(split=times)
        loader = exact_data(examples=16 + rest, shuffle=True)
        module, run = trained(loader, callback, epochs=2)
        ends.append(parameters(module))
        steps.append(run.global_step)
    assert steps == [6, 6]
    assert torch.allclose(*ends, rtol=1e-9, atol=1e-12)
    assert sum(skipped(callback).values()) == (2 if rest < 4 else 0)
    assert callback.verdict().data_size == 16 + rest


def test_a_short_last_batch_without_its_weights_would_train_otherwise(monkeypatch):
    """Halves of 3 and 2 examples that count alike give another gradient than 5 together."""
    ends = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(
                "lightning_noise.hosts.lightning.split.Split.batch_starts", lambda split: None
            )
        loader = exact_data(examples=13, shuffle=True)
        module, _ = trained(loader, GradientNoiseScale(split=2))
        ends.append(parameters(module))
    assert not torch.allclose(*ends, rtol=1e-6)


def test_the_number_of_a_short_last_batch_is_right():
    """Frozen weights: 3 and 2 examples weigh 3/5 and 2/5, so |ḡ|² is that of the five."""
    module = Exact(lambda p: torch.optim.SGD(p, lr=0.0))
    callback = GradientNoiseScale(split=2, decay=0.999)
    loader = exact_data(examples=5, local_size=6)
    trained(loader, callback, module=module, epochs=1)
    batch = next(iter(loader))
    gradients = []
    for part in (slice(0, 3), slice(3, 5), slice(0, 5)):
        loss = module.loss([tensor[part] for tensor in batch])
        grads = torch.autograd.grad(loss, list(module.parameters()))
        gradients.append(torch.cat([g.flatten() for g in grads]))
    three, two, five = [float(g.square().sum()) for g in gradients]
    # E|g_n|² = |G|² + tr(Σ)/n, with groups weighed by their examples
    small, big = 0.6 * three + 0.4 * two, five
    trace = (small - big) / (0.6 / 3 + 0.4 / 2 - 1 / 5)
    assert callback.estimate().noise == pytest.approx(trace, rel=1e-9)
    assert callback.estimate().signal == pytest.approx(big - trace / 5, rel=1e-9)


def test_the_twin_package_is_served():
    found = []
    for package, module in (
        (L, Regression(lambda p: torch.optim.SGD(p, lr=0.05))),
        (pytorch_lightning, TwinRegression(learning_rate=0.05)),
    ):
        callback = GradientNoiseScale(split=2)
        run = trainer(callback, package=package, accumulate=1)
        run.fit(module, data(local_size=8))
        found.append((callback.estimate(), run.global_step, run.accumulate_grad_batches))
    assert found[0] == found[1] and found[0][0].steps == 8


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return [MixedPrecision("16-mixed", "cpu", scaler=scaler)]


@pytest.mark.parametrize(
    "arguments",
    [{"gradient_clip_val": 0.1}, {"plugins": scaled}, {"precision": "bf16-mixed"}],
    ids=["clipping", "scaled", "bf16"],
)
def test_it_is_accumulation_under_clipping_and_mixed_precision(arguments):
    ends = []
    for times, size in ((2, 8), (1, 4)):
        given = {name: value() if callable(value) else value for name, value in arguments.items()}
        callback, module = GradientNoiseScale(split=times), Regression()
        loader = DataLoader(data().dataset, batch_size=size, shuffle=True)
        trained(loader, callback, module=module, accumulate=2 // times, **given)
        ends.append((parameters(module), callback.estimate()))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


# ---- what Lightning counts ----------------------------------------------------------------------


class Events(L.Callback):
    """What happens at which optimizer step."""

    def __init__(self):
        self.rates, self.validations, self.epochs = [], [], []

    def on_train_batch_end(self, trainer, module, *_):
        if not trainer.fit_loop._should_accumulate():
            self.rates.append((trainer.global_step, module.optimizers().param_groups[0]["lr"]))

    def on_validation_start(self, trainer, module):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append((trainer.current_epoch, trainer.global_step))


class Logger(L.pytorch.loggers.logger.DummyLogger):
    """Notes the steps at which something is logged."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def log_metrics(self, metrics, step=None):
        if "train_loss" in metrics:
            self.steps.append(step)


class Scheduled(Exact):
    """With schedules at every step, every second and every third.

    97, 19 and 31 are primes, so that a rate shows how often each schedule has come.
    """

    def __init__(self):
        super().__init__()
        self.estimated = None

    def configure_optimizers(self):
        self.estimated = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        configs = []
        for frequency, factor in ((1, 97 / 100), (2, 19 / 20), (3, 31 / 32)):
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
            config = {"scheduler": schedule, "interval": "step", "frequency": frequency}
            configs.append(config)
        return [optimizer], configs


COUNTS = {
    "plain": {},
    "accumulating": {"accumulate": 3},
    "validation by share": {"val_check_interval": 0.25},
    "validation by odd share": {"val_check_interval": 0.4},
    "validation by batches": {"val_check_interval": 3},
    "validation across epochs": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "every second epoch": {"check_val_every_n_epoch": 2},
    "limited": {"limit_train_batches": 5},
    "limited to a share": {"limit_train_batches": 0.5},
    "limited to an odd share": {"limit_train_batches": 0.3},
    "overfitting": {"overfit_batches": 3},
    "steps": {"max_steps": 11, "epochs": -1},
    "reloading": {"reload_dataloaders_every_n_epochs": 1, "val_check_interval": 0.4},
    "fast_dev_run": {"fast_dev_run": 3},
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
def test_steps_schedules_validations_limits_and_logs_come_when_they_came(name):
    """69 = 8 · 8 + 5 examples: nine batches."""
    runs = []
    for times in (1, 2, 4):
        module, events, logger = Scheduled(), Events(), Logger()
        callback = GradientNoiseScale(split=times, probe="auto" if times > 1 else "examples")
        L.seed_everything(1, verbose=False)
        run = trainer(
            callback,
            events,
            **{"epochs": 3, "accumulate": 1, **COUNTS[name]},
            logger=logger,
            log_every_n_steps=2,
        )
        run.fit(module, exact_data(69, shuffle=True), exact_data(16))
        counted = (events.rates, events.validations, events.epochs)
        facts = (run.global_step, run.current_epoch, module.estimated, run.num_training_batches)
        settings = (run.accumulate_grad_batches, run.limit_train_batches, run.val_check_interval)
        runs.append((counted, logger.steps, facts, settings, parameters(module)))
    whole = runs[0]
    assert len(whole[0][0]) >= 3
    for split in runs[1:]:
        assert split[:4] == whole[:4]
        assert torch.allclose(split[4], whole[4], rtol=1e-9, atol=1e-12)


def test_a_validation_interval_beyond_the_epoch_is_an_error_as_without_split():
    for times in (1, 2):
        run = trainer(GradientNoiseScale(split=times), accumulate=1, val_check_interval=9)
        with pytest.raises(ValueError, match=r"val_check_interval.*9\b"):
            run.fit(Exact(), exact_data(), exact_data(16))


def test_a_limit_below_one_batch_is_an_error_as_without_split():
    for times in (1, 2):
        run = trainer(GradientNoiseScale(split=times), accumulate=1, limit_train_batches=0.1)
        with pytest.raises(MisconfigurationException, match=r"< 1|less than one"):
            run.fit(Exact(), exact_data())


# ---- loaders ------------------------------------------------------------------------------------


class Seen(Keeper):
    """Keeps the examples of every optimizer step."""

    def __init__(self):
        super().__init__()
        self.steps, self.open = [], []

    def on_train_batch_start(self, batch, batch_idx):
        parts = batch.values() if isinstance(batch, dict) else [batch]
        self.open.append([part[1].tolist() for part in parts])

    def on_before_optimizer_step(self, optimizer):
        step, self.open = self.open, []
        self.steps.append([list(itertools.chain(*parts)) for parts in zip(*step, strict=True)])


class FromModule(Seen):
    def train_dataloader(self):
        return DataLoader(Numbered(), batch_size=6, shuffle=True)


class Kept(Seen):
    """Hands out the same loader every time it is asked."""

    @functools.cached_property
    def kept(self):
        return DataLoader(Numbered(), batch_size=6, shuffle=True)

    def train_dataloader(self):
        return self.kept


class Module(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Numbered(), batch_size=6, shuffle=True)


class Buckets(Sampler):
    """A custom batch sampler of batches of different sizes."""

    def __iter__(self):
        yield from ([0, 1], [2, 3, 4, 5, 6], [7, 8, 9, 10])

    def __len__(self):
        return 3


class First(Seen):
    """Given a list of batches of which there is one."""

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch[0], batch_idx)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx)


def several():
    return {
        "a": DataLoader(Numbered(60), batch_size=6),
        "b": DataLoader(Numbered(24, offset=1000), batch_size=4),
    }


LOADERS = {
    "passed": lambda: (Seen(), DataLoader(Numbered(), batch_size=6)),
    "short last": lambda: (Seen(), DataLoader(Numbered(50), batch_size=6, shuffle=True)),
    "drop_last": lambda: (Seen(), DataLoader(Numbered(50), batch_size=6, drop_last=True)),
    "module": lambda: (FromModule(), None),
    "module, kept": lambda: (Kept(), None),
    "datamodule": lambda: (Seen(), Module()),
    "iterable": lambda: (Seen(), DataLoader(Stream(50), batch_size=6)),
    "iterable, drop_last": lambda: (
        Seen(),
        DataLoader(Stream(50), batch_size=6, drop_last=True),
    ),
    "iterable, workers": lambda: (Seen(), DataLoader(Stream(52), batch_size=6, num_workers=2)),
    "sized iterable": lambda: (Seen(), DataLoader(SizedStream(50), batch_size=6)),
    "subclass": lambda: (Seen(), Odd(Numbered(), 6, True)),
    "torch's batch sampler": lambda: (
        Seen(),
        DataLoader(Numbered(), batch_sampler=BatchSampler(RandomSampler(Numbered()), 6, False)),
    ),
    "custom batch sampler": lambda: (Seen(), DataLoader(Numbered(), batch_sampler=Buckets())),
    "workers": lambda: (Seen(), DataLoader(Numbered(50), batch_size=6, num_workers=2)),
    "persistent workers": lambda: (
        Seen(),
        DataLoader(Numbered(50), batch_size=6, num_workers=2, persistent_workers=True),
    ),
    "several": lambda: (Seen(), several()),
    "a CombinedLoader": lambda: (
        First(),
        CombinedLoader([DataLoader(Numbered(50), batch_size=6)], "max_size_cycle"),
    ),
}


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize("name", LOADERS)
def test_every_step_has_its_examples_in_their_order(name, reload):
    runs = []
    for times in (1, 2):
        module, source = LOADERS[name]()
        L.seed_everything(2, verbose=False)
        callbacks = [GradientNoiseScale(split=times)] if times > 1 else []
        run = trainer(*callbacks, epochs=3, accumulate=1, reload_dataloaders_every_n_epochs=reload)
        given = {"datamodule": source} if isinstance(source, Module) else {}
        given = given or {"train_dataloaders": source}
        run.fit(module, **given)
        runs.append((module.steps, run.global_step))
    assert len(runs[0][0]) > 6 and runs[0] == runs[1]


@pytest.mark.parametrize("fails", [False, True])
def test_loaders_trainer_and_schedules_are_given_back(fails):
    source = exact_data(shuffle=True)
    combined = CombinedLoader(source, "min_size")
    before = dict(vars(source))
    collate = source.collate_fn
    callbacks = [GradientNoiseScale(split=2), *([Stop(5)] if fails else [])]
    module = Scheduled()
    run = trainer(*callbacks, accumulate=3, epochs=2, limit_train_batches=7, val_check_interval=3)
    if fails:
        with pytest.raises(RuntimeError, match="stopped by the test"):
            run.fit(module, combined, exact_data(16))
    else:
        run.fit(module, combined, exact_data(16))
    assert vars(source) == before and source.collate_fn is collate
    assert combined.flattened == [source] and combined.limits == [7]
    given = (run.accumulate_grad_batches, run.limit_train_batches, run.val_check_interval)
    assert given == (3, 7, 3)
    assert run.num_training_batches == 7 and run.val_check_batch == 3
    assert [config.frequency for config in run.lr_scheduler_configs] == [1, 2, 3]
    assert not {"process_dataloader", "backward"} & set(vars(run.strategy))
    assert not any(p._backward_hooks for p in module.parameters())


def test_an_error_in_configure_optimizers_gives_the_trainer_back():
    class Fails(Exact):
        def configure_optimizers(self):
            raise RuntimeError("no optimizer")

    run = trainer(GradientNoiseScale(split=2), accumulate=3)
    with pytest.raises(RuntimeError, match="no optimizer"):
        run.fit(Fails(), exact_data())
    assert run.accumulate_grad_batches == 3
    assert not {"process_dataloader", "backward"} & set(vars(run.strategy))


def test_no_worker_process_stays():
    before = len(multiprocessing.active_children())
    loader = exact_data(num_workers=1, persistent_workers=True)
    trained(loader, GradientNoiseScale(split=2))
    assert len(multiprocessing.active_children()) == before


def test_a_loader_for_training_and_validation_is_split_for_training_only():
    class Validated(Exact):
        validated = ()

        def validation_step(self, batch, batch_idx):
            self.validated = (*self.validated, len(batch[0]))

    module, loader = Validated(), exact_data()
    trained(loader, GradientNoiseScale(split=2), module=module, val=loader, epochs=1)
    assert set(module.sizes) == {4} and set(module.validated) == {8}


def test_two_fits_in_a_row_go_on():
    callback, module = GradientNoiseScale(split=2), Exact()
    for _ in range(2):
        trained(exact_data(), callback, module=module, epochs=1)
    assert callback.estimate().steps == 16 and set(module.sizes) == {4}


def test_the_micro_batch_size_agrees_with_the_loader(recwarn):
    trained(exact_data(shuffle=True), GradientNoiseScale(split=2))
    assert not [w for w in recwarn if "batch_size_fn" in str(w.message)]


# ---- refusals and warnings ----------------------------------------------------------------------


class Manual(Exact):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Prefetching(DataLoader):
    """Looks into its batches."""

    def __iter__(self):
        return ([tensor.clone() for tensor in batch] for batch in super().__iter__())


class Columns(torch.utils.data.Dataset):
    """Hands out the samples of a batch as one mapping."""

    def __len__(self):
        return 16

    def __getitems__(self, indices):
        return {"x": torch.zeros(len(indices), 4)}


REFUSED = {
    "columns": (
        Exact,
        lambda: DataLoader(Columns(), batch_size=8, collate_fn=lambda samples: samples),
        "a batch of samples is a dict",
    ),
    "batch size": (Exact, lambda: exact_data(local_size=7), "batch_size=7.*Use batch_size=6 or 8"),
    "small": (Exact, lambda: exact_data(local_size=1), "batch_size=1 .*Use batch_size=2,"),
    "manual": (Manual, exact_data, "automatic_optimization is False.*manual_backward"),
    "no DataLoader": (Exact, lambda: [1, 2], r"list is not a torch DataLoader.*batches=...\)"),
    "no batch size": (
        Exact,
        lambda: DataLoader(exact_data().dataset, batch_size=None),
        r"batch_size=None\) leaves batches to the data set",
    ),
    "looks inside": (
        Exact,
        lambda: Prefetching(exact_data().dataset, batch_size=8),
        "Prefetching defines __iter__",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_before_training_with_its_fix(name):
    module, loader, message = REFUSED[name]
    run = trainer(GradientNoiseScale(split=2), accumulate=1)
    with pytest.raises((MisconfigurationException, SplitError), match=message):
        run.fit(module(), loader())
    assert run.global_step == 0 and run.accumulate_grad_batches == 1


def test_an_accumulation_schedule_is_refused():
    schedule = GradientAccumulationScheduler({0: 1, 1: 2})
    run = trainer(GradientNoiseScale(split=2), schedule, accumulate=1)
    with pytest.raises(MisconfigurationException, match="multiply the numbers of the scheduler"):
        run.fit(Exact(), exact_data())


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)]
)
def test_the_argument_is_checked(value, error):
    with pytest.raises(error, match="split must be an int >= 1"):
        GradientNoiseScale(split=value)


class Normed(Regression):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(6))


@pytest.mark.parametrize("rest", [0, 1, 2, 3, 5])
def test_batch_norm_is_served_and_its_smaller_batches_are_said_once(rest):
    """A last batch of fewer than four examples comes undivided: one has no statistics."""
    if rest == 1:
        pytest.skip("one example has no statistics without split either")
    callback = GradientNoiseScale(split=2)
    loader = DataLoader(data(examples=32 + rest).dataset, batch_size=8)
    run = trainer(callback, accumulate=1, epochs=2)
    with pytest.warns(UserWarning, match=r"BatchNorm in train mode .* 1/2 of a batch") as said:
        run.fit(Normed(), loader)
        run = trainer(callback, accumulate=1, epochs=2)
        run.fit(Normed(), loader)
    assert sum("1/2 of a batch" in str(w.message) for w in said) == 1
    assert callback.estimate().steps == (10 if rest == 5 else 8)


def test_single_examples_gain_nothing_by_it():
    with pytest.warns(UserWarning, match="single examples gains? nothing by a split"):
        trained(exact_data(), GradientNoiseScale(split=2, probe="examples"))


# ---- with other features ------------------------------------------------------------------------


def test_four_micro_batches_give_a_curvature():
    split = GradientNoiseScale(split=4, geometry="hessian", every_n_steps=1)
    smaller = GradientNoiseScale(geometry="hessian", every_n_steps=1)
    trained(exact_data(), split)
    trained(exact_data(local_size=2), smaller, accumulate=4)
    assert split.estimate(Key("hessian")).steps == 24
    for name in ("noise", "signal"):
        found = getattr(split.estimate(Key("hessian")), name)
        assert found == pytest.approx(getattr(smaller.estimate(Key("hessian")), name), rel=1e-12)


def test_an_unequal_batch_gives_no_curvature():
    callback = GradientNoiseScale(split=4, geometry="hessian", every_n_steps=1)
    trained(exact_data(examples=30), callback)
    assert callback.estimate().steps == 12
    assert callback.estimate(Key("hessian")).steps == 9


def adaptive(times, following, **settings):
    policy = AdaptiveBatchSize(Script(following), **settings)
    return GradientNoiseScale(split=times, adaptive_batch_size=policy, probe="micro_batches")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_adaptive_batch_size_changes_whole_batches(accumulate):
    """The sizes and steps are those of batches that are not split."""
    following = {8 * accumulate: 16 * accumulate, 16 * accumulate: 4 * accumulate}
    module = Seen()
    loader = DataLoader(Numbered(), batch_size=8)
    run = trainer(adaptive(2, following), epochs=3, accumulate=accumulate)
    run.fit(module, loader)
    sizes = [len(step[0]) for step in module.steps]
    steps = [math.ceil(96 / size / accumulate) for size in (8, 16, 4)]
    assert run.global_step == sum(steps) == len(sizes)
    assert [sizes[0], sizes[steps[0]], sizes[-1]] == [
        8 * accumulate,
        16 * accumulate,
        4 * accumulate,
    ]
    assert [kept["accumulation"] for kept in module.epochs.values()] == [2 * accumulate] * 3
    assert module.numbers() == [list(range(96))] * 3
    assert (loader.batch_size, run.accumulate_grad_batches) == (8, accumulate)


def test_an_adaptive_batch_size_keeps_micro_batches_equal_and_respects_a_limit():
    module = Seen()
    run = trainer(adaptive(2, {8: 15, 14: 29}, max_local_size=16), epochs=3, accumulate=1)
    run.fit(module, DataLoader(Numbered(), batch_size=8))
    sizes = [len(step[0]) for step in module.steps]
    assert sizes[:12] == [8] * 12 and sizes[12] == 14
    assert sizes[19] == 28  # two batches of 14, each in two parts
    assert set(module.epochs[2]["batches"][0][0]) and module.epochs[2]["accumulation"] == 4


def test_a_share_of_the_epoch_stays_one_when_the_batch_size_changes():
    """Half of 96 examples, in batches of 8, then 16, then 4."""
    module = Seen()
    run = trainer(adaptive(2, {8: 16, 16: 4}), epochs=3, accumulate=1, limit_train_batches=0.5)
    run.fit(module, DataLoader(Numbered(), batch_size=8))
    assert module.numbers() == [list(range(48))] * 3
    assert run.global_step == 6 + 3 + 12
    assert run.limit_train_batches == 0.5


# ---- resuming -----------------------------------------------------------------------------------


def checkpointed(folder, loader, **arguments):
    """A whole run, the same run broken off, and what it had saved."""
    L.seed_everything(1, verbose=False)
    module, whole = Exact(OPTIMIZERS["Adam"]), GradientNoiseScale(split=2)
    start = {k: v.clone() for k, v in module.state_dict().items()}
    fit(module, loader(), whole, accumulate=1, epochs=3)
    ends = parameters(module)
    module.load_state_dict(start)
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", **arguments)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(
            module,
            loader(),
            GradientNoiseScale(split=2),
            saver,
            Stop(30),
            accumulate=1,
            epochs=3,
            enable_checkpointing=True,
        )
    return whole, ends


@IGNORE_OTHER_CALLBACKS
@pytest.mark.parametrize(
    ("arguments", "step"),
    [({"every_n_train_steps": 5}, 10), ({"every_n_epochs": 1}, 8)],
    ids=["inside an epoch", "at its end"],
)
def test_resume_is_exact(tmp_path, arguments, step):
    source = exact_data().dataset
    whole, ends = checkpointed(tmp_path, lambda: Resumable(source, batch_size=8), **arguments)
    module, resumed = Exact(OPTIMIZERS["Adam"]), GradientNoiseScale(split=2)
    fit(
        module,
        Resumable(source, batch_size=8),
        resumed,
        accumulate=1,
        epochs=3,
        ckpt_path=tmp_path / f"step={step}.ckpt",
    )
    assert resumed.state_dict() == whole.state_dict()
    assert torch.equal(parameters(module), ends)


@IGNORE_OTHER_CALLBACKS
@pytest.mark.parametrize("times", [1, 4])
def test_inside_an_epoch_a_checkpoint_is_resumed_with_its_own_split(tmp_path, times):
    source = exact_data().dataset
    checkpointed(tmp_path, lambda: Resumable(source, batch_size=8), every_n_train_steps=5)
    resumed = GradientNoiseScale(split=times)
    run = trainer(resumed, accumulate=1, epochs=3)
    with pytest.raises(MisconfigurationException, match=r"Resume with split=2, or from the end"):
        run.fit(
            Exact(OPTIMIZERS["Adam"]),
            Resumable(source, batch_size=8),
            ckpt_path=tmp_path / "step=10.ckpt",
        )


@IGNORE_OTHER_CALLBACKS
def test_inside_an_epoch_a_checkpoint_without_the_callback_is_one_without_split(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5)
    loader = Resumable(exact_data().dataset, batch_size=8)
    fit(Exact(), loader, saver, accumulate=1, max_steps=5, enable_checkpointing=True)
    run = trainer(GradientNoiseScale(split=2), accumulate=1, epochs=3)
    with pytest.raises(MisconfigurationException, match="Resume with split=1"):
        run.fit(Exact(), loader, ckpt_path=tmp_path / "step=5.ckpt")


def test_a_second_fit_after_one_that_ended_inside_an_epoch():
    callback, module = GradientNoiseScale(split=2), Exact()
    run = fit(module, exact_data(), callback, accumulate=1, epochs=3, max_steps=5)
    run.fit_loop.epoch_loop.max_steps = 12
    run.fit(module, exact_data())
    assert run.global_step == 12 and callback.estimate().steps == 12


@IGNORE_OTHER_CALLBACKS
def test_from_the_end_of_an_epoch_another_split_goes_on(tmp_path):
    source = exact_data().dataset
    whole, ends = checkpointed(tmp_path, lambda: Resumable(source, batch_size=8), every_n_epochs=1)
    module, resumed = Exact(OPTIMIZERS["Adam"]), GradientNoiseScale(split=4)
    path = tmp_path / "step=8.ckpt"
    run = fit(
        module, Resumable(source, batch_size=8), resumed, accumulate=1, epochs=3, ckpt_path=path
    )
    assert run.global_step == 24 and resumed.estimate().steps == whole.estimate().steps
    assert torch.allclose(parameters(module), ends, rtol=1e-9, atol=1e-12)
