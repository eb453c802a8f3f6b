import math
import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_noise import measure_noise_scale
from lightning_noise.probes.second_derivatives import (
    DifferencesDisagreeError,
    ReentrantCheckpointError,
)
from testing import toys
from testing.exact import Population


class Bumpy(nn.Module):
    """BatchNorm, dropout, a part in eval mode and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.still = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
        for p in self.still.parameters():
            p.requires_grad_(False)

    def forward(self, x):
        return self.net(self.still(x))


def squares(module, batch):
    return (module(batch[0]) - batch[1]).square().mean()


def everything(module, loader):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    gradients = [
        None if p.grad is None else (id(p.grad), p.grad.clone()) for p in module.parameters()
    ]
    random_states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    hooks = [len(p._backward_hooks or ()) for p in module.parameters()]
    return state, flags, gradients, random_states, hooks, loader.generator.get_state()


def assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    assert before[1] == after[1] and before[4] == after[4] and torch.equal(before[5], after[5])
    for a, b in zip(before[2], after[2], strict=True):
        assert (a is None) == (b is None) and (
            a is None or (a[0] == b[0] and torch.equal(a[1], b[1]))
        )
    assert torch.equal(before[3][0], after[3][0])
    assert np.array_equal(before[3][1], after[3][1]) and before[3][2] == after[3][2]


@pytest.fixture
def bumpy():
    module = Bumpy()
    x = torch.randn(256, 4)
    y = x.sum(1, keepdim=True) + torch.randn(256, 1)
    loader = DataLoader(
        TensorDataset(x, y), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    squares(module, next(iter(loader))).backward()
    return module, loader


@pytest.mark.parametrize("train", [True, False])
def test_nothing_is_changed(bumpy, train):
    module, loader = bumpy
    module.train(train)
    module.still.eval()
    optimizer = torch.optim.Adam(module.net.parameters())
    optimizer.step()
    before, modes = everything(module, loader), []

    def loss(part, batch):
        modes.append((part.net.training, part.still.training))
        random.random(), np.random.rand()
        return squares(part, batch)

    found = measure_noise_scale(
        module,
        loader,
        loss_fn=loss,
        geometry=("euclidean", "hessian", "optimizer"),
        optimizer=optimizer,
        max_examples=1500,
        progress=False,
    )
    assert_same(before, everything(module, loader))
    assert (
        set(found) == {"euclidean", "hessian", "optimizer"} and found["euclidean"].noise_scale > 0
    )
    assert set(modes) == {
        (True, not train)
    }  # the user's own eval part stays so unless the whole was in eval mode


def test_nothing_is_changed_by_an_exception(bumpy):
    module, loader = bumpy
    before, calls = everything(module, loader), []

    def loss(part, batch):
        calls.append(1)
        if len(calls) == 5:
            raise ZeroDivisionError
        part.net[1].running_mean = torch.full(
            (8,), 7.0
        )  # puts another tensor in the place of a buffer
        return squares(part, batch)

    with pytest.raises(ZeroDivisionError):
        measure_noise_scale(module, loader, loss_fn=loss, progress=False)
    assert_same(before, everything(module, loader))


@pytest.mark.slow
def test_the_truth_of_three_layers_lies_in_the_intervals():
    population = Population()
    truth = population.truth()
    found = measure_noise_scale(
        population.module,
        population.batches(8),
        loss_fn=population.loss,
        relative_error=0.08,
        progress=False,
    )
    for name, value in (("euclidean", truth.noise_scale), ("hessian", truth.b_noise)):
        estimate = found[name]
        assert abs(estimate.noise_scale / value - 1) < 4 * 0.08
        assert estimate.high / estimate.low < 1.6  # about 4 · 0.08
    assert found.eps_max.low < found.eps_max.value < found.eps_max.high
    assert abs(found.eps_max.value * truth.hessian_grad_sq / truth.signal - 1) < 0.2
    assert abs(found.dl_max.value * 2 * truth.hessian_grad_sq / truth.signal**2 - 1) < 0.3
    assert found.passes == 1 and found.needed <= found.examples < 100_000


@pytest.mark.slow
def test_a_smaller_error_takes_more_examples():
    population = Population()
    used = [
        measure_noise_scale(
            population.module,
            population.batches(8),
            loss_fn=population.loss,
            relative_error=error,
            progress=False,
        ).examples
        for error in (0.6, 0.15)
    ]
    assert used[1] > 4 * used[0]


def test_it_stops_at_the_examples_allowed_and_says_what_it_needs(bumpy, monkeypatch):
    module, loader = bumpy
    said = []
    monkeypatch.setattr(
        "lightning_noise.hosts.lightning.pause_progress.rank_zero_info", said.append
    )
    found = measure_noise_scale(
        module,
        loader,
        loss_fn=squares,
        geometry="euclidean",
        relative_error=0.01,
        max_examples=600,
        progress=False,
    )
    assert found.examples <= 600 < found.needed
    assert found.passes == 3 and "1 % needs about" in said[0] and "at most 600" in said[0]


def test_training_step_of_a_lightning_module_on_a_copy():
    module = toys.Regression()
    module.steps = 0

    def step(self, batch, batch_idx):
        self.steps += 1
        self.log("loss", 1.0)
        return {"loss": self.loss(batch)}

    kind = type("Counting", (toys.Regression,), {"training_step": step})
    module.__class__ = kind
    loader = toys.data(shuffle=True, local_size=8)
    found = measure_noise_scale(
        module, loader, geometry="euclidean", max_examples=400, progress=False
    )
    by_hand = measure_noise_scale(
        module,
        loader,
        loss_fn=lambda m, b: m.loss(b),
        geometry="euclidean",
        max_examples=400,
        progress=False,
    )
    assert module.steps == 0 and "log" not in vars(module)
    assert found["euclidean"].steps == by_hand["euclidean"].steps > 0


def test_a_lightning_module_in_mid_training():
    """In a callback of the user's: the run goes on as without it."""

    class Pauses(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            measure_noise_scale(
                pl_module,
                trainer.train_dataloader,
                loss_fn=lambda m, b: m.loss(b),
                max_examples=300,
                progress=False,
            )

    def weights(*callbacks):
        L.seed_everything(5)
        module = toys.Regression()
        toys.fit(module, toys.data(shuffle=True, examples=128), *callbacks, epochs=2)
        return [p.detach().clone() for p in module.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(Pauses()), strict=True))


def test_gauss_newton_is_never_negative():
    population = Population(seed=4)

    def loss(module, batch):
        outputs = module(batch[0])
        return F.cross_entropy(outputs, batch[1]), outputs

    found = measure_noise_scale(
        population.module,
        population.batches(8),
        loss_fn=loss,
        geometry=("gauss_newton", "hessian"),
        max_examples=20_000,
        progress=False,
    )
    assert found["gauss_newton"].noise_scale > 0 and found.indefinite == 0.0
    with pytest.raises(TypeError, match="hessian"):
        measure_noise_scale(
            population.module,
            population.batches(8),
            loss_fn=population.loss,
            geometry="gauss_newton",
            progress=False,
        )


class NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


def test_finite_differences_where_there_is_no_double_backward():
    population = Population()
    truth = population.truth()

    def loss(module, batch):
        x = batch[0]
        for part in module:
            x = NoSecond.apply(x) if isinstance(part, nn.Tanh) else part(x)
        return F.cross_entropy(x, batch[1])

    found = measure_noise_scale(
        population.module,
        population.batches(8),
        loss_fn=loss,
        geometry="hessian",
        relative_error=0.2,
        progress=False,
    )
    assert abs(found["hessian"].noise_scale / truth.b_noise - 1) < 4 * 0.2

    def wild(module, batch):
        return (1e4 * loss(module, batch)).cos()

    with pytest.raises(DifferencesDisagreeError):
        measure_noise_scale(
            population.module, population.batches(8), loss_fn=wild, max_examples=500, progress=False
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"geometry": "flat"}, ValueError, "geometry must be one"),
        ({"geometry": None}, ValueError, "geometry must be one.* got None"),
        ({"module": squares}, TypeError, "module must be a torch.nn.Module"),
        ({"loader": None}, TypeError, "loader must yield batches .* got None"),
        (
            {"loss_fn": lambda m, b: torch.ones(())},
            ValueError,
            "loss_fn must return a loss that depends on",
        ),
        ({"geometry": ("hessian", "hessian")}, ValueError, "different"),
        ({"relative_error": 0}, ValueError, "relative_error"),
        ({"relative_error": True}, ValueError, "relative_error"),
        ({"max_examples": -1}, ValueError, "max_examples"),
        ({"geometry": "optimizer"}, TypeError, "optimizer="),
        ({"loss_fn": 3}, TypeError, "loss_fn must be a function"),
        ({"loss_fn": None}, TypeError, "loss_fn is needed"),
        ({"loss_fn": lambda m, b: m(b[0])}, TypeError, "one number"),
    ],
)
def test_bad_arguments(bumpy, arguments, error, message):
    module, loader = bumpy
    with pytest.raises(error, match=message):
        measure_noise_scale(
            **{
                "module": module,
                "loader": loader,
                "loss_fn": squares,
                "progress": False,
                **arguments,
            }
        )


def test_numbers_of_numpy_and_no_limit(bumpy):
    module, loader = bumpy
    given = {"relative_error": np.float32(0.5), "max_examples": np.int64(600)}
    assert (
        measure_noise_scale(module, loader, loss_fn=squares, progress=False, **given).examples
        <= 600
    )
    free = measure_noise_scale(
        module,
        loader,
        loss_fn=squares,
        geometry="euclidean",
        relative_error=1.0,
        max_examples=math.inf,
        progress=False,
    )
    assert free["euclidean"].resolved


@pytest.mark.parametrize("geometry", ["euclidean", "hessian"])
@pytest.mark.parametrize("finite", [0, 1])
def test_a_loss_that_is_not_finite_is_not_measured(bumpy, geometry, finite):
    module, loader = bumpy
    calls = []

    def loss(part, batch):
        calls.append(1)
        return squares(part, batch) * (1.0 if len(calls) <= 4 * finite else math.nan)

    found = measure_noise_scale(
        module, loader, loss_fn=loss, geometry=geometry, max_examples=600, progress=False
    )
    assert not found[geometry].resolved and found[geometry].noise_scale is None
    assert found[geometry].steps == (finite if geometry == "hessian" else 2 * finite)
    assert math.isnan(found[geometry].signal) == math.isnan(found[geometry].noise) == (not finite)
    assert found.eps_max is None


def test_the_generator_of_a_batch_sampler_is_kept(bumpy):
    module, loader = bumpy
    generator = torch.Generator().manual_seed(5)
    sampler = BatchSampler(RandomSampler(loader.dataset, generator=generator), 16, drop_last=True)
    before = generator.get_state()
    measure_noise_scale(
        module,
        DataLoader(loader.dataset, batch_sampler=sampler),
        loss_fn=squares,
        max_examples=200,
        progress=False,
    )
    assert torch.equal(before, generator.get_state())


def test_a_loader_with_persistent_workers_goes_on_where_it_was(bumpy):
    module, loader = bumpy
    own = DataLoader(loader.dataset, batch_size=64, num_workers=1, persistent_workers=True)
    batches = iter(own)
    next(batches)
    measure_noise_scale(
        module, own, loss_fn=squares, geometry="euclidean", max_examples=100, progress=False
    )
    assert torch.equal(torch.cat([batch[0] for batch in batches]), loader.dataset.tensors[0][64:])
    assert own._iterator is batches


def test_an_embedding_with_sparse_gradients():
    """It has no double backward; the differences give what a dense one gives by it."""
    tokens, found = torch.randint(0, 12, (256, 5), generator=torch.Generator().manual_seed(1)), []
    for sparse in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(12, 6, sparse=sparse), nn.Linear(6, 12)).double()

        def loss(part, batch):
            return F.cross_entropy(part(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

        batches = tokens.split(8)
        found.append(
            measure_noise_scale(
                module, batches, loss_fn=loss, geometry="hessian", max_examples=200, progress=False
            )
        )
    dense, sparse = (one["hessian"] for one in found)
    assert sparse.signal == pytest.approx(dense.signal, rel=1e-3)
    assert sparse.noise == pytest.approx(dense.noise, rel=1e-3)


def test_bad_modules_loaders_and_optimizers(bumpy):
    module, loader = bumpy
    with pytest.raises(ValueError, match="gave no batch"):
        measure_noise_scale(module, [], loss_fn=squares, progress=False)
    with pytest.raises(ValueError, match="gave no batch in pass 2"):
        measure_noise_scale(module, iter(list(loader)), loss_fn=squares, progress=False)
    with pytest.raises(ValueError, match="has made a step"):
        fresh = torch.optim.Adam(module.parameters())
        measure_noise_scale(
            module, loader, loss_fn=squares, geometry="optimizer", optimizer=fresh, progress=False
        )
    module.requires_grad_(False)
    with pytest.raises(ValueError, match="Unfreeze"):
        measure_noise_scale(module, loader, loss_fn=squares, progress=False)


def test_reentrant_checkpointing_is_refused_with_the_argument_to_change():
    model = nn.Linear(2, 1)
    loader = DataLoader(torch.randn(64, 2), batch_size=8)

    def loss(module, x):
        return checkpoint(module, x.clone().requires_grad_(), use_reentrant=True).square().mean()

    for geometry in ("euclidean", "hessian"):
        with pytest.raises(ReentrantCheckpointError, match=r"^Pass use_reentrant=False to"):
            measure_noise_scale(model, loader, loss_fn=loss, geometry=geometry, progress=False)
