"""Modules that step by themselves, with every loss a mean over examples, and the same training
written by hand.
"""

import lightning as L
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise.core.moments import Moments


class Gan(L.LightningModule):
    """A generator and a discriminator on vectors; the latent numbers are part of the batch, so that
    runs can be compared.

    Args:
        order: which steps first, "gd" or "dg".
        toggle: freezes the other one's parameters meanwhile.
        accumulate: batches a step.
        critic_steps: steps of the discriminator a batch.
        before_step: called with the module and the optimizer before each step (clipping).
        zero: arguments of zero_grad.
    """

    def __init__(
        self,
        order="dg",
        toggle=True,
        accumulate=1,
        critic_steps=1,
        before_step=None,
        zero=None,
        lr=0.01,
    ):
        super().__init__()
        self.automatic_optimization = False
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
            self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.order, self.toggle, self.accumulate, self.critic_steps = (
            order,
            toggle,
            accumulate,
            critic_steps,
        )
        self.before_step, self.zero, self.lr = before_step, zero or {}, lr

    def losses(self, batch, which):
        real, z = batch
        fake = self.generator(z)
        if which == "g":
            return softplus(-self.discriminator(fake)).mean()
        return (
            softplus(-self.discriminator(real)) + softplus(self.discriminator(fake.detach()))
        ).mean()

    def training_step(self, batch, batch_idx):
        g, d = self.optimizers()
        for which in self.order:
            for _ in range(self.critic_steps if which == "d" else 1):
                self.one_step(which, g if which == "g" else d, batch, batch_idx)

    def one_step(self, which, optimizer, batch, batch_idx):
        if self.toggle:
            self.toggle_optimizer(optimizer)
        if batch_idx % self.accumulate == 0:
            optimizer.zero_grad(**self.zero)
        self.manual_backward(self.losses(batch, which) / self.accumulate)
        if batch_idx % self.accumulate == self.accumulate - 1:
            if self.before_step is not None:
                self.before_step(self, optimizer)
            optimizer.step()
        if self.toggle:
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [
            torch.optim.Adam(part.parameters(), lr=self.lr)
            for part in (self.generator, self.discriminator)
        ]


class Wrong(Gan):
    """Ways to step that cannot give a right number."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def training_step(self, batch, batch_idx):
        _, d = self.optimizers()
        if self.way == "two passes":
            d.zero_grad()
            for loss in (self.losses(batch, "d"), self.losses(batch, "d") / 2):
                self.manual_backward(loss)
        elif self.way == "not zeroed":
            self.manual_backward(self.losses(batch, "d"))
        elif self.way == "zeroed in part":
            if batch_idx % 2 == 0:
                d.zero_grad()
            else:
                self.discriminator[0].zero_grad()
            self.manual_backward(self.losses(batch, "d"))
            if batch_idx % 2 == 0:
                return
        elif self.way == "loss.backward":
            d.zero_grad()
            self.losses(batch, "d").backward()
        d.step()


def gan_data(examples=48, local_size=8, dtype=torch.float32, seed=5):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(examples, 4, generator=generator, dtype=dtype).abs()
    return DataLoader(
        TensorDataset(real, torch.randn(examples, 3, generator=generator, dtype=dtype)),
        batch_size=local_size,
    )


def flat(parameters):
    return torch.cat([p.grad.flatten() for p in parameters])


def by_hand(module, loader, groups="examples"):
    """Moments of every step of the generator and of the discriminator in a loop of plain backward
    passes.

    Args:
        module: a ``Gan`` that has not been trained.
        loader: the batches.
        groups: "examples", or "batches": the batches of one step.

    Returns:
        {"g": moments, "d": moments}.
    """
    parts = {"g": module.generator, "d": module.discriminator}
    optimizers = dict(zip("gd", module.configure_optimizers(), strict=True))
    found, waiting = {"g": [], "d": []}, {"g": [], "d": []}
    for index, batch in enumerate(loader):
        for which in module.order:
            for _ in range(module.critic_steps if which == "d" else 1):
                waiting[which].append(_gradients(module, parts[which], batch, which, groups))
                if index % module.accumulate == module.accumulate - 1:
                    found[which].append(_step(parts[which], waiting[which], optimizers[which]))
                    waiting[which] = []
    return found


def _gradients(module, part, batch, which, groups):
    """Each group's gradient and size."""
    pieces = (
        [batch]
        if groups == "batches"
        else [tuple(t[i : i + 1] for t in batch) for i in range(len(batch[0]))]
    )
    grads = []
    for piece in pieces:
        module.zero_grad()
        module.losses(piece, which).backward()
        grads.append((flat(part.parameters()), len(piece[0])))
    return grads


def _step(part, batches, optimizer):
    """Moments of the groups of all batches; then the step with the mean of the batches' means."""
    groups = [
        (g, b, 1 / len(batches) / len(batch)) for batch in batches for g, b in batch
    ]  # gradient, size, weight
    mean = sum(weight * g for g, _, weight in groups)
    optimizer.zero_grad()
    torch.nn.utils.vector_to_parameters(
        mean, grads := [torch.empty_like(p) for p in part.parameters()]
    )
    for parameter, grad in zip(part.parameters(), grads, strict=True):
        parameter.grad = grad
    optimizer.step()
    return Moments(
        float(sum(weight * (g @ g) for g, _, weight in groups)),
        float(mean @ mean),
        sum(weight / b for _, b, weight in groups),
        sum(weight**2 / b for _, b, weight in groups),
    )


class Joint(L.LightningModule):
    """Actor and critic with one loss, one backward pass and two optimizers; ``shared`` gives both
    the body too.
    """

    def __init__(self, shared=False):
        super().__init__()
        self.automatic_optimization = False
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.body, self.actor, self.critic = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 1)
        self.shared = shared

    def losses(self, batch):
        features = self.body(batch[0]).tanh()
        return (
            self.actor(features).square().sum(1)
            + (self.critic(features)[:, 0] - batch[1][:, 0]).square()
        ).mean()

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.losses(batch))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        critic = [*self.critic.parameters(), *(self.body.parameters() if self.shared else ())]
        return [
            torch.optim.SGD([*self.body.parameters(), *self.actor.parameters()], lr=0.01),
            torch.optim.Adam(critic, lr=0.01),
        ]
