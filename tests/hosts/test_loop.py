"""A loop in plain torch measures all that a Trainer does: curvature, several optimizers, single
examples.
"""

import copy

import pytest
import torch

from lightning_noise import Examples, GradientNoiseScale, Key, Monitor, estimate_noise_scale
from lightning_noise.core.reasons import CannotMeasureError
from testing.gans import Gan, by_hand, gan_data
from testing.toys import Regression, data, fit


def loop(module, loader, monitor, accumulation=1):
    """One epoch of SGD, with the passes announced to ``monitor``."""
    optimizer = module.configure_optimizers()
    with monitor.attach(dict(module.named_parameters())):
        for index, batch in enumerate(loader):
            with monitor.micro_batch(len(batch[0]), 1 / accumulation, batch):
                monitor.backward(module.loss(batch) / accumulation)
            if (index + 1) % accumulation == 0:
                monitor.step()
                optimizer.step()
                optimizer.zero_grad()
        monitor.flush()


def by_trainer(loader, accumulation, **noise):
    module, callback = Regression().double(), GradientNoiseScale(every_n_steps=1, **noise)
    fit(module, loader, callback, accumulate=accumulation, precision="64-true")
    return module, callback


def double(**arguments):
    return data(dtype=torch.float64, **arguments)


def mean_loss(module, batch):
    return module.loss(batch)


@pytest.mark.parametrize(
    ("accumulation", "loss_fn"), [(4, None), (1, mean_loss)], ids=["accumulated", "pieces"]
)
def test_the_hessian_geometry_is_that_of_a_trainer(accumulation, loss_fn):
    noise = {"geometry": ("euclidean", "hessian"), "loss_fn": loss_fn}
    loader = double(examples=160, local_size=8)
    trained, callback = by_trainer(loader, accumulation, probe="auto", **noise)
    module = Regression().double()
    monitor = Monitor(module=module, accumulation=accumulation, every_n_steps=1, **noise)
    loop(module, loader, monitor, accumulation)
    for key in (Key(), Key("hessian")):
        found, wanted = monitor.estimate(key), callback.estimate(key)
        assert (found.steps, found.resolved) == (wanted.steps, wanted.resolved) and found.steps > 3
        assert (found.noise, found.signal) == pytest.approx(
            (wanted.noise, wanted.signal), rel=1e-12
        )
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), trained.parameters(), strict=True)
    )


def test_a_gan_is_measured_in_a_plain_loop():
    module, loader = Gan().double(), gan_data(dtype=torch.float64)
    hand = by_hand(copy.deepcopy(module), loader)
    optimizers = dict(zip("gd", module.configure_optimizers(), strict=True))
    monitor = Monitor(Examples(exact=True), optimizers=optimizers, module=module)
    with monitor.attach(dict(module.named_parameters())):
        for batch in loader:
            with monitor.batch(len(batch[0])):
                for which in "dg":
                    optimizers[which].zero_grad()
                    monitor.backward(module.losses(batch, which))
                    monitor.step(optimizers[which])
                    optimizers[which].step()
        monitor.flush()
    for which in "gd":
        found, wanted = (
            monitor.estimate(Key(optimizer=which)),
            estimate_noise_scale(hand[which], decay=0.99),
        )
        assert found.steps == wanted.steps == 6
        assert (found.noise, found.signal) == pytest.approx((wanted.noise, wanted.signal), rel=1e-9)


def test_examples_that_mix_are_refused():
    """Every example's loss is relative to the mean of the batch."""
    module = Regression()
    monitor = Monitor("examples", module=module)
    with monitor.attach(dict(module.named_parameters())):
        with monitor.micro_batch(8):
            outputs = module.net(torch.randn(8, 4))
            monitor.backward((outputs - outputs.mean()).square().mean())
        monitor.step()
        monitor.flush()
    (reason,) = monitor.skipped
    assert reason.code in ("mixed_examples", "coupled_loss")


def test_one_group_is_refused_with_the_fix():
    with pytest.raises(
        CannotMeasureError, match="Accumulate gradients over two micro-batches or more"
    ) as caught:
        Monitor("micro_batches", accumulation=1).watch(
            dict(torch.nn.Linear(2, 1).named_parameters())
        )
    assert [reason.code for reason in caught.value.reasons] == ["one_group"]


def test_the_state_goes_on_bit_for_bit():
    loader = double(examples=96)
    whole, first, second = (Monitor(accumulation=2) for _ in range(3))
    module = Regression().double()
    loop(module, loader, whole, 2)
    loop(module, loader, whole, 2)
    again = Regression().double()
    loop(again, loader, first, 2)
    second.load_state_dict(first.state_dict())
    loop(again, loader, second, 2)
    assert second.state_dict() == whole.state_dict()


def test_a_curvature_needs_the_loss():
    module = Regression()
    monitor = Monitor(module=module, accumulation=4, geometry="hessian")
    watched, passes = monitor.attach(dict(module.named_parameters())), monitor.micro_batch(8, 1 / 4)
    with (
        watched,
        pytest.raises(
            RuntimeError, match=r"Call monitor.backward\(loss\) in place of loss.backward"
        ),
        passes,
    ):
        module.net(torch.randn(8, 4)).mean().backward()
