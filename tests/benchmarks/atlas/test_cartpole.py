"""Rollouts of CartPole: returns by hand, whose actions they hold, and a loss of single frames."""

import sys

import lightning as L
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from benchmarks.atlas.actor_critic import OF_ENTROPY, OF_VALUES
from benchmarks.atlas.rollouts import CARTPOLE, EPISODES, Rollouts, segment_returns
from benchmarks.atlas.tasks.cartpole import make_data, make_module
from benchmarks.harness.lightning_runs import SILENT, quiet_lightning

SEGMENT = CARTPOLE.segment


@pytest.fixture
def module():
    torch.manual_seed(0)
    return make_module({"learning_rate": 0.01})


class Losses(nn.Module):
    """The losses of frames as a forward, for ``functional_call``."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *batch):
        return self.module.losses(batch)


def following(policy, size, seed=1, parts=1):
    data = Rollouts(CARTPOLE, size, seed)
    data.follow(policy, parts)
    return data


def fit(module, size, steps, callback=None):
    """Trains, and gives the mean return that was logged in each batch."""
    logged = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            logged.append(float(trainer.callback_metrics["mean_return"]))

    with quiet_lightning():
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            max_steps=steps,
            max_epochs=-1,
            callbacks=[Keep(), *filter(None, [callback])],
            **SILENT,
        )
        trainer.fit(module, make_data(size, 1))
    return logged


def test_returns_and_advantages_of_a_hand_made_rollout():
    """Three frames of two environments: one terminates in frame 1, the other is cut off there."""
    rewards = torch.ones(3, 2)
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    terminated = torch.tensor([[False, False], [True, False], [False, False]])
    truncated = torch.tensor([[False, False], [False, True], [False, False]])
    d = CARTPOLE.discount
    found = segment_returns(rewards, values, terminated, truncated, d)
    by_hand = [
        [1 + d * 1, 1 + d * (1 + d * 6)],
        [1, 1 + d * 6],
        [1 + d * 7, 1 + d * 8],
    ]
    assert d == 0.98
    torch.testing.assert_close(found, torch.tensor(by_hand))
    advantages = torch.tensor([[0.98, 5.7424], [-2.0, 2.88], [2.86, 2.84]])
    torch.testing.assert_close(found - values[:-1], advantages)


def test_the_loss_of_a_frame_by_hand(module):
    """Even logits and values of 0: ln 2 · A + A²/4 - ln 2 / 100, and 0 in a restart."""
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    returns = torch.tensor([0.5, -1.0, 2.0])
    alive = torch.tensor([1.0, 1.0, 0.0])
    batch = (torch.randn(3, 4), torch.tensor([0, 1, 1]), returns, alive)
    assert (OF_VALUES, OF_ENTROPY) == (0.5, 0.01)
    by_hand = torch.tensor([0.402142, -0.450079, 0.0])
    torch.testing.assert_close(module.losses(batch), by_hand, atol=1e-5, rtol=0)


def test_gradients_of_single_frames_have_the_gradient_of_the_batch_as_their_mean(module):
    batch = following(module, 64)[0]
    weights = dict(module.named_parameters())

    def loss(found, *frame):
        one = tuple(column[None] for column in frame)
        return functional_call(Losses(module), {f"module.{n}": w for n, w in found.items()}, one)[0]

    losses = vmap(loss, in_dims=(None, 0, 0, 0, 0))(weights, *batch)
    gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(weights, *batch)
    mean = module.training_step(batch, 0)
    mean.backward()
    torch.testing.assert_close(losses.mean(), mean)
    for name, weight in weights.items():
        torch.testing.assert_close(gradients[name].mean(0), weight.grad)


def test_the_current_weights_act(module):
    data = following(module, 8 * SEGMENT)
    batches = iter(data.loader())
    for action in (1, 0):
        with torch.no_grad():
            module.policy[-1].bias.copy_(torch.tensor([-50.0, 50.0]) * (2 * action - 1))
        assert next(batches).actions.tolist() == [action] * 8 * SEGMENT


def test_the_mean_return_is_that_of_the_episodes_between_restarts(module):
    """Pushed to the right all the time, a pole falls after about nine frames."""
    with torch.no_grad():
        module.policy[-1].bias.copy_(torch.tensor([-50.0, 50.0]))
    data = following(module, 8 * SEGMENT)
    batches = iter(data.loader())
    alive = [next(batches).alive.view(8, SEGMENT) for _ in range(6)]
    said = data.mean_return
    alive.append(next(batches).alive.view(8, SEGMENT)[:, :1])  # restarts of the last episodes
    lengths = []
    for environment in torch.cat(alive, dim=1).tolist():
        whole = "".join("x" if frame else " " for frame in environment).split(" ")[:-1]
        lengths += [len(episode) for episode in whole]
    assert 50 < len(lengths) <= EPISODES
    assert said == pytest.approx(sum(lengths) / len(lengths))
    assert 8 < said < 11


def test_frames_follow_each_other_across_batches(module):
    """A position moves by its velocity times 0.02 s, except in a restart."""
    batches = iter(following(module, 2 * SEGMENT).loader())
    seen = [next(batches) for _ in range(6)]
    path = torch.cat([one.observations.view(2, SEGMENT, 4) for one in seen], dim=1)
    alive = torch.cat([one.alive.view(2, SEGMENT) for one in seen], dim=1)
    moved = path[:, :-1, 0] + 0.02 * path[:, :-1, 1]
    goes_on = alive[:, :-1] == 1
    torch.testing.assert_close(moved[goes_on], path[:, 1:, 0][goes_on])
    assert not goes_on.all()


def test_micro_batches_have_environments_of_their_own(module):
    """The ninth of eight micro-batches goes on where the first one ended."""
    batches = iter(following(module, SEGMENT, parts=8).loader())
    seen = [next(batches) for _ in range(9)]
    starts = {tuple(one.observations[0].tolist()) for one in seen}
    assert len(starts) == 9
    first, ninth = seen[0].observations, seen[8].observations
    moved = first[-1, 0] + 0.02 * first[-1, 1]
    assert float(ninth[0, 0]) == pytest.approx(float(moved), abs=1e-6)
    assert all(float(one.observations[0, 0]) != pytest.approx(float(moved)) for one in seen[1:8])


def test_rollouts_follow_the_seed(module):
    first, again, other = (following(module, 64, seed)[0] for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.observations, other.observations)


def test_a_batch_that_is_no_multiple_of_a_segment_is_an_error():
    with pytest.raises(ValueError, match="size must be at most 16 or a multiple of it, got 20"):
        Rollouts(CARTPOLE, 20, 1)


def test_a_missing_gymnasium_is_named_with_its_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    fix = r"Run pip install -e '\.\[atlas\]' in the repository: CartPole comes with gymnasium"
    with pytest.raises(ModuleNotFoundError, match=fix):
        make_data(64, 1)


def test_two_steps_change_every_parameter(module):
    before = [parameter.detach().clone() for parameter in module.parameters()]
    logged = fit(module, 512, 2)
    assert len(logged) == 2
    changed = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert all(changed)


def test_the_mean_return_is_logged_for_every_batch(module):
    module.learning_rate = 0.0
    logged = fit(module, 512, 5)
    data = following(module, 512)
    expected = []
    for number in range(5):
        data[number]
        expected.append(data.mean_return)
    assert logged == pytest.approx(expected)
    assert expected[-1] > 8


def test_no_batch_is_fetched_before_the_weights_that_act_in_it(module):
    """With a huge rate the first step decides all actions of the second batch."""
    acted = []

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            logits, _ = pl_module(batch.observations)
            acted.append((batch.actions, logits.argmax(-1)))

    module.learning_rate = 1e4
    fit(module, 64, 2, callback=Keep())
    assert len(set(acted[0][0].tolist())) == 2
    assert torch.equal(*acted[1])
