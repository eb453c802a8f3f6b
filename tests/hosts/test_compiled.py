"""``torch.compile``: measured steps that run uncompiled, against gradients recomputed in fp64 and
against the same run without the callback.
"""

import shutil

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch._dynamo.utils import counters

from lightning_noise import Examples, GradientNoiseScale, Monitor
from testing.callbacks import Watcher, no_hooks
from testing.compiled_models import MODELS, Graphs, Step
from testing.gans import Gan, gan_data
from testing.reference import Recorder, errors, skipped
from testing.toys import Regression, data, fit

ROUNDING = 1e-6  # of fp32
EVERY = 5
NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor needs a C++ compiler"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated",
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # asked for by torch.compile
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()


def run(model, backend, *callbacks, **arguments):
    """The module after two epochs of 16 steps."""
    module = MODELS[model](backend)
    fit(module, data(), *callbacks, **{"epochs": 2, "accumulate": 1, **arguments})
    return getattr(module, "_orig_mod", module)


def is_default_stance():
    """Whether something that is compiled now is compiled."""
    backend = Graphs()
    torch.compile(torch.sin, backend=backend)(torch.ones(3))
    return backend.compiled == 1


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_between_are_compiled_as_ever(model):
    """As many graphs, and the measured norms are those of single examples."""
    plain, backend = Graphs(), Graphs()
    run(model, plain)
    torch.compiler.reset()
    callback = GradientNoiseScale(Examples(exact=True, eager=True), every_n_steps=EVERY)
    recorder = Recorder(callback)
    module = run(model, backend, callback, recorder)
    assert backend.compiled == plain.compiled > 0
    found = errors(Regression(), recorder.moments, [recorder.steps[::EVERY]], "examples")
    assert found.steps == 7 and max(found[:2]) < ROUNDING
    assert no_hooks(module) and is_default_stance()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_gradients_weights_and_random_state_are_those_of_the_compiled_run(backend):
    seen = []
    for callbacks in ([], [GradientNoiseScale(Examples(eager=True), every_n_steps=EVERY)]):
        torch.compiler.reset()
        torch.manual_seed(0)
        watcher = Watcher()
        module = run("a part of the module", backend, *callbacks, watcher)
        seen.append([*[t for step in watcher.seen for t in step], *module.parameters()])
    pairs = list(zip(*seen, strict=True))
    assert len(pairs) > 32 and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("model", ["a part of the module", "the LightningModule"])
def test_inductor_compiles_nothing_more(model):
    """Where its kernels round differently, weights differ by as little."""
    plain = run(model, "inductor")
    frames, graphs = dict(counters["frames"]), counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    counters.clear()
    callback = GradientNoiseScale(Examples(exact=True, eager=True), every_n_steps=EVERY)
    recorder = Recorder(callback)
    module = run(model, "inductor", callback, recorder)
    assert counters["frames"] == frames and counters["stats"]["unique_graphs"] == graphs > 0
    found = errors(Regression(), recorder.moments, [recorder.steps[::EVERY]], "examples")
    assert found.steps == 7 and max(found[:2]) < ROUNDING
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("asked", "steps"), [(None, 2), (1, 32), (8, 4)])
def test_every_20th_step_unless_another_cadence_is_asked_for(asked, steps):
    callback = GradientNoiseScale(Examples(eager=True), every_n_steps=asked)
    run("a part of the module", "eager", callback)
    assert callback.estimate().steps == steps
    reason = callback.session.tracks[0].offer.reason
    assert "measured steps run without torch.compile" in reason
    assert ("one of every 20 steps" in reason) == (asked is None)


def test_a_plain_probe_measures_every_step():
    callback = GradientNoiseScale(Examples())
    fit(Regression(), data(), callback, accumulate=1)
    assert callback.estimate().steps == 16
    assert "one of every" not in callback.session.tracks[0].offer.reason


@pytest.mark.parametrize("probe", ["auto", "examples"])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "a function"])
def test_without_eager_a_compiled_model_is_refused_with_the_fix(model, probe):
    with pytest.raises(MisconfigurationException, match=r"runs inside torch\.compile") as refused:
        run(model, "eager", GradientNoiseScale(probe))
    assert "Examples(eager=True)" in str(refused.value)
    if probe == "examples":
        assert str(refused.value).startswith("`GradientNoiseScale`: Use Examples(eager=True)")


def test_a_function_that_was_compiled_before_hides_its_layers():
    """Its code has no hooks in it. With ``eager`` it is measured."""
    module = Step("eager")
    module.compiled_loss(next(iter(data())))
    with pytest.raises(MisconfigurationException, match=r"torch\.compile.*Examples\(eager=True\)"):
        fit(module, data(), GradientNoiseScale("examples"), accumulate=1)
    callback = GradientNoiseScale(Examples(exact=True, eager=True), every_n_steps=EVERY)
    recorder = Recorder(callback)
    fit(module, data(), callback, recorder, accumulate=1)
    found = errors(Regression(), recorder.moments, [recorder.steps[::EVERY]], "examples")
    assert max(found[:2]) < ROUNDING


class Fails(Step):
    """Raises in its third step, in the forward or in the backward pass."""

    def __init__(self, where):
        super().__init__("eager")
        self.where = where

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 2 and self.where == "forward":
            raise RuntimeError("stopped by the test")
        return loss

    def backward(self, loss):
        super().backward(loss)
        if self.trainer.global_step == 2 and self.where == "backward":
            raise RuntimeError("stopped by the test")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_stance_is_given_back_after_an_exception(where):
    module = Fails(where)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(module, data(), GradientNoiseScale(Examples(eager=True), every_n_steps=1), accumulate=1)
    assert no_hooks(module) and is_default_stance()


@pytest.mark.parametrize("model", ["a part of the module", "in place"])
def test_micro_batches_leave_the_graphs_alone(model):
    """Hooks on parameters are no part of a graph."""
    plain, backend = Graphs(), Graphs()
    run(model, plain, accumulate=2)
    torch.compiler.reset()
    callback = GradientNoiseScale("micro_batches", every_n_steps=3)
    recorder = Recorder(callback)
    run(model, backend, callback, recorder, accumulate=2)
    assert backend.compiled == plain.compiled > 0
    assert not skipped(callback)
    found = errors(Regression(), recorder.moments, [recorder.steps[::3]])
    assert found.steps == 6 and max(found[:2]) < ROUNDING


def compiled_gan(compiled):
    module = Gan()
    if compiled:
        for name in ("generator", "discriminator"):
            setattr(module, name, torch.compile(getattr(module, name), backend="aot_eager"))
    return module


def test_two_optimizers_share_the_stance():
    """Each has a probe, and a batch is a step of both."""
    found = []
    for compiled in (True, False):
        callback = GradientNoiseScale(Examples(exact=True, eager=compiled), every_n_steps=2)
        fit(compiled_gan(compiled), gan_data(), callback, epochs=2, accumulate=1)
        found.append(callback)
        assert is_default_stance()
    with_compile, without = found
    assert with_compile.state_dict() == without.state_dict()
    assert with_compile.session.steps_read > 6


@pytest.fixture(scope="module")
def uncompiled():
    """What a plain loop measures in every 20th step of the model as it is."""
    return by_hand(Regression().net, Examples(exact=True), every_n_steps=20)


def by_hand(model, probe, **arguments):
    """The estimate of a plain loop of 41 steps at fixed weights."""
    monitor = Monitor(probe, module=model, **arguments)
    with monitor.attach(dict(model.named_parameters())):
        for x, y in data(examples=164):
            with monitor.micro_batch(len(x)):
                monitor.backward((model(x) - y).square().mean())
            monitor.step()
            model.zero_grad()
        monitor.flush()
    return monitor.estimate()


def test_a_plain_loop(uncompiled):
    """The cadence is the probe's here too."""
    model = torch.compile(Regression().net, backend="aot_eager")
    found = by_hand(model, Examples(exact=True, eager=True))
    assert found == uncompiled and found.steps == 3
    assert is_default_stance()
