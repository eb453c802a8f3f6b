"""With the probe left to the package nothing ends a training that has begun: measuring stops, says
so with the fix, and training goes on to the last bit as without the callback.
"""

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_noise import AdaptiveBatchSize, Examples, GradientNoiseScale, Key
from testing.adapting import Script
from testing.callbacks import no_hooks
from testing.gans import Joint, Wrong, gan_data
from testing.toys import Regression, data, fit, trainer

STOPPED = "measuring has stopped, and training goes on"


class Penalised(Regression):
    """A weight penalty inside the loss: its gradient is no example's, which shows in a step."""

    def loss(self, batch):
        return super().loss(batch) + 0.1 * self.net[0].weight.square().sum()


class Contrastive(Regression):
    """Its loss couples the examples of a batch."""

    def loss(self, batch):
        hidden = self.net[0](batch[0])
        return functional.cross_entropy(hidden @ hidden.T, torch.arange(len(hidden)))


class TimeFirst(Regression):
    """Its layers see another dimension than that of the examples first."""

    def loss(self, batch):
        x = torch.stack([batch[0]] * 3)
        return (self.net(x).mean(0) - batch[1]).square().mean()


class Functional(Regression):
    """Its weights are used by functions, so that no call of a layer is seen."""

    def loss(self, batch):
        hidden = functional.linear(batch[0], self.net[0].weight, self.net[0].bias)
        return (functional.linear(hidden, self.net[2].weight) - batch[1]).square().mean()


def dropping(kind):
    """With dropout, so that a wrong random state would show in the weights."""
    module = kind(lambda p: torch.optim.Adam(p, lr=0.01))
    module.net.insert(1, nn.Dropout(0.3))
    if kind is Functional:
        module.net[2] = module.net[3]
    return module


AUTOMATIC = {
    "penalty": lambda: dropping(Penalised),
    "contrastive": lambda: dropping(Contrastive),
    "time first": lambda: dropping(TimeFirst),
    "functional": lambda: dropping(Functional),
}
MANUAL = {
    "two passes": lambda: Wrong("two passes"),
    "zeroed in part": lambda: Wrong("zeroed in part"),
    "loss.backward": lambda: Wrong("loss.backward"),
    "shared pass": lambda: Joint(shared=True),
}


class Grads(L.Callback):
    """Remembers the gradients that the optimizers get, and the random state there."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen += [p.grad.clone() for p in module.parameters() if p.grad is not None]
        self.seen.append(torch.get_rng_state())


def run(make, loader, *callbacks, **arguments):
    """What the optimizers got, the weights and the random state at the end."""
    L.seed_everything(5, verbose=False)
    module, grads = make(), Grads()
    fitted = fit(module, loader, *callbacks, grads, accumulate=1, epochs=2, **arguments)
    assert no_hooks(module)
    return [*grads.seen, *module.parameters(), torch.get_rng_state()], fitted.global_step


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [*AUTOMATIC, *MANUAL])
def test_training_goes_on_to_the_last_bit_as_without_the_callback(name, capsys):
    make = {**AUTOMATIC, **MANUAL}[name]
    loader = data(local_size=8) if name in AUTOMATIC or name == "shared pass" else gan_data()
    plain, steps = run(make, loader)
    capsys.readouterr()
    callback = GradientNoiseScale()
    with pytest.warns(UserWarning, match=STOPPED) as said:
        measured, measured_steps = run(make, loader, callback)
    assert steps == measured_steps > 4 and same(plain, measured)
    texts = [str(w.message) for w in said if STOPPED in str(w.message)]
    assert len(texts) == 1 and f"warning: {STOPPED}" in capsys.readouterr().out
    fix = f"{STOPPED}. Use GradientNoiseScale(split=2): "
    assert (fix in texts[0]) == (name in AUTOMATIC)


@pytest.mark.parametrize("name", [*AUTOMATIC, *MANUAL])
def test_a_probe_that_is_named_may_end_it(name):
    loader = data(local_size=8) if name in AUTOMATIC or name == "shared pass" else gan_data()
    callback = GradientNoiseScale(probe=Examples())
    with pytest.raises(MisconfigurationException):
        run({**AUTOMATIC, **MANUAL}[name], loader, callback)


@pytest.mark.parametrize("name", AUTOMATIC)
def test_the_fix_measures_it(name):
    callback = GradientNoiseScale(split=2)
    run(AUTOMATIC[name], data(local_size=8), callback)
    assert callback.estimate().steps == 16


def test_hooks_are_gone_at_once():
    class Looks(L.Callback):
        clean = ()

        def on_train_batch_end(self, trainer, module, *_):
            self.clean = (*self.clean, no_hooks(module))

    looks = Looks()
    with pytest.warns(UserWarning, match=STOPPED):
        fit(Penalised(), data(), GradientNoiseScale(), looks, accumulate=1)
    assert looks.clean == (True,) * 16


def test_what_is_known_before_training_is_refused_before_it():
    run = trainer(GradientNoiseScale(), accumulate=1)
    with pytest.raises(MisconfigurationException, match="the batch holds one example"):
        run.fit(Regression(), data(local_size=1))
    assert run.global_step == 0


def test_an_adaptive_batch_size_stays_and_that_is_said():
    settings = AdaptiveBatchSize(Script({8: 16}))
    loader = data(local_size=8)
    with pytest.warns(UserWarning, match=f"(?s){STOPPED}.*The batch size stays as it is"):
        run = fit(
            Penalised(),
            loader,
            GradientNoiseScale(adaptive_batch_size=settings),
            accumulate=1,
            epochs=3,
        )
    assert run.global_step == 24 and loader.batch_size == 8


class Recomputing(Regression):
    """Reentrant checkpointing has no second derivatives that could be taken aside."""

    def loss(self, batch):
        x = batch[0].clone().requires_grad_()
        hidden = checkpoint(self.net[0], x, use_reentrant=True)
        return (self.net[1:](hidden) - batch[1]).square().mean()


def test_a_curvature_that_cannot_be_measured_stops_alone():
    ends = []
    for callbacks in ([], [GradientNoiseScale(geometry="hessian", split=4)]):
        L.seed_everything(5, verbose=False)
        module = Recomputing()
        if callbacks:
            text = "the curvature is no longer measured, and the rest goes on. Pass use_reentrant"
            with pytest.warns(UserWarning, match=text):
                fit(module, data(local_size=8), *callbacks, accumulate=1)
        else:
            fit(module, data(local_size=2), accumulate=4)
        ends.append(list(module.parameters()))
    (callback,) = callbacks
    assert same(*ends)
    assert callback.estimate().steps == 8 and callback.estimate(Key("hessian")).steps == 0
    plain = GradientNoiseScale(split=4)
    fit(Recomputing(), data(local_size=8), plain, accumulate=1)
    assert plain.estimate() == callback.estimate()


class Token(Regression):
    """A parameter without a rule, with a gradient of its own."""

    def __init__(self):
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.0))
        self.token = nn.Parameter(torch.zeros(2))

    def loss(self, batch):
        return super().loss(batch) + 0.1 * self.token.sum() * (1 + batch[1]).mean()


def test_the_whole_model_is_within_the_bounds_that_the_verdict_states():
    """The same batch in every step, so that the share in the check is that of all steps."""
    loader = data(examples=16, local_size=16)
    covered = GradientNoiseScale(decay=0.9999)
    fit(Token(), loader, covered, accumulate=1, epochs=8)
    whole = GradientNoiseScale(decay=0.9999, split=16)
    fit(Token(), loader, whole, accumulate=1, epochs=8)
    verdict = covered.verdict()
    assert 0.001 < verdict.left_out < 0.1
    (line,) = [text for text in str(verdict).splitlines() if "whole model" in text]
    low, high = (
        float(text) for text in line.split("lies between ")[1].split(",")[0].split(" and ")
    )
    assert low < covered.estimate().noise_scale < high
    assert low <= whole.estimate().noise_scale <= high
    assert whole.verdict().left_out == 0.0
    assert whole.estimate().noise_scale != pytest.approx(covered.estimate().noise_scale, rel=1e-3)
