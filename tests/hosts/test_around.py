"""What people put around a training run, each against gradients recomputed in fp64 or against an
undisturbed run.
"""

import shutil

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner

from lightning_noise import Examples, GradientNoiseScale, Key
from testing.callbacks import no_hooks
from testing.models import Backbone, Checkpointed, CompiledInside, Silent, Words, words
from testing.reference import Recorder, errors, skipped
from testing.toys import Regression, data, fit, trainer

PROBES = {"micro_batches": ("micro_batches", 2), "examples": (Examples(exact=True), 1)}
ROUNDING = 1e-6  # of fp32


def recorded(
    module, loader=None, *others, probe="micro_batches", key=Key(), per_layer=False, **arguments
):
    """The callback, and what was recorded of every step."""
    noise, accumulate = PROBES[probe]
    callback = GradientNoiseScale(probe=noise, per_layer=per_layer)
    recorder = Recorder(callback, key)
    arguments = {"accumulate": accumulate, "epochs": 2, **arguments}
    fit(module, data() if loader is None else loader, callback, recorder, *others, **arguments)
    return callback, recorder


def worst(module, recorder, probe="micro_batches"):
    """Greatest relative error of a squared norm; every step with two groups must have been
    measured.
    """
    found = errors(module, recorder.moments, [recorder.steps], probe)
    assert found.steps == len(recorder.steps) > 0
    return max(found.q_small, found.q_big)


# ---- torch.compile and checkpointing ------------------------------------------------------------


NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor needs a C++ compiler"
)
COMPILED = [
    ("around", "aot_eager"),
    ("inside", "eager"),
    ("inside", "aot_eager"),
    pytest.param("around", "inductor", marks=NEEDS_COMPILER),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize(("where", "backend"), COMPILED)
def test_compiled(where, backend):
    torch.compiler.reset()
    module = (
        torch.compile(Silent(), backend=backend) if where == "around" else CompiledInside(backend)
    )
    _, recorder = recorded(module)
    assert worst(Regression(), recorder) < ROUNDING


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_a_shared_layer(reentrant, probe):
    """A reentrant checkpoint hands out the shared layer's gradient in parts: noticed in the first
    step.
    """
    callback, recorder = recorded(Checkpointed(reentrant), probe=probe)
    in_parts = reentrant and probe == "micro_batches"
    assert skipped(callback).total() == in_parts
    if in_parts:
        recorder.steps.pop(0)
    assert worst(Checkpointed(), recorder, probe) < ROUNDING


# ---- embeddings and frozen parts ----------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES)
def test_sparse_embedding_with_repeated_words(probe):
    dense, _ = recorded(Words(), words(), probe=probe, per_layer=True)
    sparse, recorder = recorded(Words(sparse=True), words(), probe=probe, per_layer=True)
    assert worst(Words(), recorder, probe) < ROUNDING
    for key in (Key(), Key(layer="table")):
        assert sparse.estimate(key).noise == pytest.approx(dense.estimate(key).noise, rel=1e-5)
        assert sparse.estimate(key).signal == pytest.approx(dense.estimate(key).signal, rel=1e-4)


@pytest.mark.parametrize("probe", PROBES)
def test_backbone_finetuning(probe):
    callback, recorder = recorded(
        Backbone(),
        None,
        BackboneFinetuning(unfreeze_backbone_at_epoch=1),
        probe=probe,
        per_layer=1,
        epochs=3,
    )
    per_epoch = len(recorder.steps) // 3
    counts = [len(step.trained) for step in recorder.steps]
    assert counts == [4] * per_epoch + [6] * 2 * per_epoch
    assert worst(Backbone(), recorder, probe) < ROUNDING
    assert callback.estimate().steps == 3 * per_epoch
    assert callback.estimate(Key(layer="backbone")).steps == 2 * per_epoch


class Freezes(L.Callback):
    """Freezes and thaws the first layer in mid-epoch."""

    def __init__(self, frozen):
        self.frozen = frozen

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx in self.frozen:
            module.net[0].requires_grad_(not self.frozen[batch_idx])


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "frozen", [{4: True, 8: False}, {0: True, 6: False}], ids=["later", "at first"]
)
def test_frozen_and_thawed_in_mid_epoch(frozen, probe):
    noise, accumulate = PROBES[probe]
    callback = GradientNoiseScale(probe=noise)
    recorder = Recorder(callback)
    fit(Regression(), data(), Freezes(frozen), callback, recorder, epochs=2, accumulate=accumulate)
    assert {len(step.trained) for step in recorder.steps} == {2, 4}
    assert worst(Regression(), recorder, probe) < ROUNDING


# ---- searches before the run --------------------------------------------------------------------


class Tunable(Regression):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.05, 4

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return data(local_size=self.batch_size)

    def val_dataloader(self):
        return data(local_size=self.batch_size, seed=2)


def lr_find(run, module):
    Tuner(run).lr_find(module, num_training=12, update_attr=False)


def scale_batch_size(run, module):
    Tuner(run).scale_batch_size(module, init_val=4, max_trials=2, steps_per_trial=2)
    assert module.batch_size > 4
    module.batch_size = 4


SEARCHES = {"lr_find": lr_find, "scale_batch_size": scale_batch_size}
quiet_search = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:You passed.*val_dataloaders", "ignore:.*restored"
)


@pytest.mark.slow
@quiet_search
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_before_fit_leaves_nothing(search, probe, tmp_path):
    noise, accumulate = PROBES[probe]
    plain = GradientNoiseScale(probe=noise)
    fit(Tunable(), None, plain, epochs=2, accumulate=accumulate)
    module, callback = Tunable(), GradientNoiseScale(probe=noise)
    run = trainer(callback, epochs=2, accumulate=accumulate, default_root_dir=tmp_path)
    SEARCHES[search](run, module)
    assert no_hooks(module)
    assert callback.estimate() is None or callback.estimate().steps == 0
    run.fit(module)
    assert callback.state_dict() == plain.state_dict()


class RatesAgain(LearningRateFinder):
    """Searches in the middle of a run, as Lightning's documentation shows it."""

    def on_fit_start(self, *_):
        pass

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            self.lr_find(trainer, module)


FINDERS = {
    "rates": lambda: LearningRateFinder(num_training_steps=12, update_attr=False),
    "rates, in the second epoch": lambda: RatesAgain(num_training_steps=12, update_attr=False),
    "sizes": lambda: BatchSizeFinder(max_trials=1, init_val=4, steps_per_trial=2),
}


@pytest.mark.slow
@quiet_search
@pytest.mark.parametrize("finder", FINDERS)
def test_a_finder_among_the_callbacks(finder, tmp_path):
    """Such a search saves a checkpoint and restores it inside of fit: neither this run nor the next
    one loses anything.
    """
    module, plain = Tunable(), GradientNoiseScale()
    for epochs in (2, 1):
        fit(module, None, plain, epochs=epochs)
    module, callback = Tunable(), GradientNoiseScale()
    fit(module, None, callback, FINDERS[finder](), epochs=2, default_root_dir=tmp_path)
    assert callback.estimate().steps == 16
    fit(module, None, callback, epochs=1)
    assert callback.estimate().steps == 24
    assert callback.state_dict() == plain.state_dict()


@pytest.mark.parametrize("probe", PROBES)
def test_a_restore_after_fit_has_begun_is_taken_up(probe):
    """Strategies that can load a checkpoint only into a model they have set up restore callbacks
    after ``on_fit_start``.
    """

    class Late(L.Callback):
        def on_train_start(self, trainer, module):
            callback.load_state_dict(state)

    before, _ = recorded(Regression(), probe=probe)
    state = before.state_dict()
    noise, accumulate = PROBES[probe]
    callback = GradientNoiseScale(probe=noise)
    fit(Regression(), data(), callback, Late(), epochs=1, accumulate=accumulate)
    assert callback.estimate().steps == before.estimate().steps * 3 / 2


# ---- trials, limits, several runs ---------------------------------------------------------------

LIMITS = [  # trainer's arguments, steps of two micro-batches, steps of one
    ({"fast_dev_run": True}, 0, 1),
    ({"fast_dev_run": 5}, 2, 5),
    ({"overfit_batches": 6}, 6, 12),
    ({"limit_train_batches": 6}, 6, 12),
    ({"limit_train_batches": 0.5}, 8, 16),
    ({"max_steps": 7}, 7, 7),
]


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(("arguments", "pairs", "singles"), LIMITS)
def test_trials_and_limits(arguments, pairs, singles, probe):
    callback, recorder = recorded(Regression(), probe=probe, **arguments)
    steps = pairs if probe == "micro_batches" else singles
    assert callback.estimate().steps == steps == len(recorder.moments)
    recorder.steps = [
        step for step in recorder.steps if len(step.batches) > 1 or probe == "examples"
    ]
    assert not steps or worst(Regression(), recorder, probe) < ROUNDING


@pytest.mark.parametrize("probe", PROBES)
def test_several_fits_with_everything_between(probe):
    class Tested(Regression):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

    noise, accumulate = PROBES[probe]
    module, callback = Tested(), GradientNoiseScale(probe=noise)
    for epochs in (1, 2):
        run = trainer(callback, epochs=epochs, accumulate=accumulate)
        run.validate(module, data(seed=2), verbose=False)
        run.fit(module, data(), data(seed=2))
        assert no_hooks(module)
        run.test(module, data(seed=3), verbose=False)
        run.predict(module, data(seed=3))
    module, plain = Tested(), GradientNoiseScale(probe=noise)
    for epochs in (1, 2):
        fit(module, data(), plain, epochs=epochs, accumulate=accumulate)
    assert callback.state_dict() == plain.state_dict()
    assert callback.estimate().steps == 3 * 16 / accumulate
