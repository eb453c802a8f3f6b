"""The factor around the step: exact for every scheduler and every way an optimizer
keeps its rate.
"""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from lightning_noise.adapt.learning_rate import alpha_for
from lightning_noise.hosts.rate_factor import LearningRateFactor, optimizer_kinds
from testing.toys import Regression, data, fit

STEPS = 24
FACTOR = 2.7


class Halving(schedulers.LRScheduler):
    """A user's own scheduler that computes the next rate from the last."""

    def get_lr(self):
        return [
            group["lr"] * (0.5 if self.last_epoch % 5 == 4 else 1.0)
            for group in self.optimizer.param_groups
        ]


SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.93),
    "StepLR": lambda o: schedulers.StepLR(o, 5, gamma=0.3),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [3, 9, 10]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.2, total_iters=7),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, total_iters=11),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=20, power=2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 20),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5, T_mult=2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(
        o, [0.3, 0.4], total_steps=STEPS, cycle_momentum=False
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.2, step_size_up=4, cycle_momentum=False),
    "CyclicLR, exp_range": lambda o: schedulers.CyclicLR(
        o, 0.01, 0.2, 4, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, factor=0.4),
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=6),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, total_iters=4), schedulers.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LinearLR(o, 0.1, total_iters=5), schedulers.CosineAnnealingLR(o, 15)],
        milestones=[5],
    ),
    "a user's own": Halving,
}


def parameters(rate=0.1):
    """Two groups with rates of their own; their gradients are 1, so that a plain step from 0 moves
    by minus the rate.
    """
    groups = []
    for scale in (1.0, 3.0):
        weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        weight.grad = torch.ones_like(weight)
        groups.append({"params": [weight], "lr": rate * scale})
    return groups


def advance(scheduler):
    scheduler.step(1.0) if isinstance(scheduler, schedulers.ReduceLROnPlateau) else scheduler.step()


def moved(optimizer):
    """One step from 0: by how much each group's weights moved, and the rates that are seen before
    and after.
    """
    for group in optimizer.param_groups:
        group["params"][0].data.zero_()
    before = rates(optimizer)
    optimizer.step()
    assert rates(optimizer) == before
    return [-group["params"][0][0].item() for group in optimizer.param_groups]


def rates(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_exact_for_every_scheduler(name):
    plain = torch.optim.SGD(parameters())
    scheduled = SCHEDULERS[name](plain)
    expected = []
    for _ in range(STEPS - 1):
        expected.append(rates(plain))
        plain.step()
        advance(scheduled)
    assert len({tuple(rate) for rate in expected}) > 1  # it does change the rate
    optimizer = torch.optim.SGD(parameters())
    scheduler = SCHEDULERS[name](optimizer)
    with LearningRateFactor(optimizer) as rate:
        for step, wanted in enumerate(expected):
            rate.factor = FACTOR if step >= 6 else 1.0
            assert rates(optimizer) == wanted  # bit for bit what the schedule says
            assert moved(optimizer) == [value * rate.factor for value in wanted]
            advance(scheduler)


@pytest.mark.parametrize("name", ["OneCycleLR", "MultiplicativeLR", "SequentialLR", "a user's own"])
def test_resume_is_exact(name):
    def steps(optimizer, scheduler, count):
        with LearningRateFactor(optimizer) as rate:
            rate.factor = FACTOR
            found = []
            for _ in range(count):
                found.append(moved(optimizer))
                advance(scheduler)
        return found

    whole = torch.optim.SGD(parameters(), momentum=0.9)
    expected = steps(whole, SCHEDULERS[name](whole), 20)
    first = torch.optim.SGD(parameters(), momentum=0.9)
    scheduler = SCHEDULERS[name](first)
    begun = steps(first, scheduler, 11)
    saved = copy.deepcopy((first.state_dict(), scheduler.state_dict()))
    second = torch.optim.SGD(parameters(), momentum=0.9)
    resumed = SCHEDULERS[name](second)
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert begun + steps(second, resumed, 9) == expected


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p),
    "SGD, fused": lambda p: torch.optim.SGD(p, fused=True),
    "SGD, foreach": lambda p: torch.optim.SGD(p, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, weight_decay=0.1, fused=True),
    "Adam, foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "RMSprop": lambda p: torch.optim.RMSprop(p),
}
TENSOR_RATES = {
    "SGD": lambda p: torch.optim.SGD(p, foreach=False),
    "SGD, fused": lambda p: torch.optim.SGD(p, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, foreach=False),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, fused=True),
}


def walk(optimizer, gradients):
    """One step for each gradient; the weights after each."""
    path = []
    for gradient in gradients:
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.full_like(group["params"][0], gradient)
        optimizer.step()
        path.append(
            torch.cat([group["params"][0].data.clone() for group in optimizer.param_groups])
        )
    return torch.stack(path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_same_as_another_rate(name):
    reference = OPTIMIZERS[name](parameters(0.1 * FACTOR))
    optimizer = OPTIMIZERS[name](parameters(0.1))
    with LearningRateFactor(optimizer) as rate:
        rate.factor = FACTOR
        assert torch.allclose(
            walk(optimizer, (1.0, 2.0, -1.0)), walk(reference, (1.0, 2.0, -1.0)), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("name", TENSOR_RATES)
def test_a_rate_that_is_a_tensor_stays_where_it_is(name):
    shared = torch.tensor(0.1, dtype=torch.float64)
    groups = [{"params": group["params"], "lr": shared} for group in parameters()]
    optimizer = TENSOR_RATES[name](groups)
    held = [group["lr"] for group in optimizer.param_groups]
    reference = TENSOR_RATES[name](
        [{**group, "lr": torch.tensor(0.1 * FACTOR, dtype=torch.float64)} for group in parameters()]
    )
    with LearningRateFactor(optimizer) as rate:
        rate.factor = FACTOR
        assert torch.allclose(walk(optimizer, (1.0, 2.0)), walk(reference, (1.0, 2.0)), rtol=1e-6)
    assert all(
        group["lr"] is tensor and tensor.item() == 0.1
        for group, tensor in zip(optimizer.param_groups, held, strict=True)
    )


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_and_overflow(fused):
    optimizer = torch.optim.SGD(parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with LearningRateFactor(optimizer) as rate:
        rate.factor = FACTOR
        for gradient, expected in (
            (1024.0, [0.1 * FACTOR, 0.1 * 3.0 * FACTOR]),
            (torch.inf, [0.0, 0.0]),
        ):
            for group in optimizer.param_groups:
                group["params"][0].data.zero_()
                group["params"][0].grad = torch.full((2,), gradient, dtype=torch.float64)
            scaler.scale(torch.ones(()))  # as the loss would be
            scaler.step(optimizer)
            scaler.update()
            assert [
                -group["params"][0][0].item() for group in optimizer.param_groups
            ] == pytest.approx(expected, rel=1e-12)
            assert rates(optimizer) == [0.1, 0.1 * 3.0]


class WithDecay(torch.optim.SGD):
    """A step that calls its parent's and then uses the rate once more."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["params"][0].sub_(group["lr"])


def test_a_step_that_calls_its_parents_is_multiplied_once():
    torch.optim.SGD(parameters())  # from now on torch runs the hooks in the parent's step, too
    optimizer = WithDecay(parameters())
    with LearningRateFactor(optimizer) as rate:
        rate.factor = FACTOR
        assert moved(optimizer) == [2 * 0.1 * FACTOR, 2 * 0.1 * 3.0 * FACTOR]


def test_an_exception_in_the_step_leaves_nothing_behind():
    optimizer = torch.optim.SGD(parameters())
    hooks = len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)

    def fail():
        raise RuntimeError("in training_step")

    with (
        pytest.raises(RuntimeError, match="in training_step"),
        LearningRateFactor(optimizer) as rate,
    ):
        rate.factor = FACTOR
        optimizer.step(fail)
    assert rates(optimizer) == [0.1, 0.1 * 3.0]
    assert (
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
    ) == hooks
    rate.close()
    assert moved(optimizer) == [0.1, 0.1 * 3.0]


def test_a_loop_that_goes_on_after_an_exception_restores():
    optimizer = torch.optim.SGD(parameters())
    with LearningRateFactor(optimizer) as rate:
        rate.factor = FACTOR
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        rate.restore()
        assert rates(optimizer) == [0.1, 0.1 * 3.0]
        assert moved(optimizer) == [0.1 * FACTOR, 0.1 * 3.0 * FACTOR]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(value):
    with LearningRateFactor(torch.optim.SGD(parameters())) as rate:
        with pytest.raises(ValueError, match="factor must be a finite number > 0"):
            rate.factor = value
        assert rate.factor == 1.0


class Mine(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


@pytest.mark.parametrize(
    ("make", "value", "words"),
    [
        (lambda p: torch.optim.SGD(p, momentum=0.9), 1.0, "SGD is an optimizer of the SGD kind"),
        (torch.optim.ASGD, 1.0, "SGD kind"),
        (WithDecay, 1.0, "WithDecay is an optimizer of the SGD kind"),
        *(
            (getattr(torch.optim, name), 0.5, "Adam kind")
            for name in (
                "Adam",
                "AdamW",
                "NAdam",
                "RAdam",
                "Adamax",
                "RMSprop",
                "Adagrad",
                "Adadelta",
                "Adafactor",
            )
        ),
        (Mine, 0.5, "the cautious one, as Mine is not known"),
        (torch.optim.Rprop, 0.5, "the cautious one, as Rprop is not known"),
    ],
)
def test_alpha_by_kind_of_optimizer(make, value, words):
    alpha = alpha_for(optimizer_kinds(make(parameters())))
    assert alpha.value == value and words in alpha.reason


class Multiplied(L.Callback):
    """A factor that applies during the whole fit; notes the rates between steps."""

    def __init__(self, factor):
        self.factor, self.seen = factor, set()

    def on_fit_start(self, trainer, pl_module):
        self.rate = LearningRateFactor(trainer.optimizers[0])
        self.rate.factor = self.factor

    def on_train_batch_end(self, trainer, *_):
        self.seen.add(trainer.optimizers[0].param_groups[0]["lr"])

    def teardown(self, trainer, pl_module, stage):
        self.rate.close()


@pytest.mark.parametrize("scale", [2.0**8, 2.0**127], ids=["steps", "overflows"])
@pytest.mark.parametrize("fused", [False, True])
def test_in_a_trainer_with_a_loss_scale(fused, scale):
    def weights(rate, factor):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=2.0**-31)
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        # no momentum: torch 2.13's fused SGD leaves its buffer uninitialised where the first step
        # overflows
        module = Regression(lambda p: torch.optim.SGD(p, lr=rate, fused=fused))
        multiplied = Multiplied(factor)
        fit(module, data(), multiplied, plugins=[plugin])
        assert multiplied.seen == {rate} and (scaler.get_scale() < scale) == (
            scale > 2**100
        )  # it did overflow
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    start = torch.cat([p.detach().flatten() for p in Regression().parameters()])
    multiplied, plain = weights(0.02, 2.5), weights(0.05, 1.0)
    assert torch.allclose(multiplied, plain, rtol=1e-5, atol=1e-7)
    assert (plain - start).norm() > 1e-3
