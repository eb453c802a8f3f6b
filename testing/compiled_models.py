"""One regression under ``torch.compile`` in every way that users have of asking for it."""

import torch
from torch import nn

from testing.models import CompiledInside, Silent


class Graphs:
    """A backend that runs graphs as they are, and counts those it is given."""

    def __init__(self):
        self.compiled = 0

    def __call__(self, graph, inputs):
        self.compiled += 1
        return graph.forward


class Chain(nn.Sequential):
    """Not torch's own class: such a module is not compiled in place."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


class InPlace(Silent):
    def __init__(self, backend):
        super().__init__()
        self.net = Chain(*self.net)
        self.net.compile(backend=backend)


class Layers(Silent):
    """Every layer is compiled by itself."""

    def __init__(self, backend):
        super().__init__()
        for index in (0, 2):
            self.net[index] = torch.compile(self.net[index], backend=backend)


class Step(Silent):
    """A function is compiled, and no module."""

    def __init__(self, backend):
        super().__init__()
        self.compiled_loss = torch.compile(self.loss, backend=backend)

    def training_step(self, batch, batch_idx):
        return self.compiled_loss(batch)


MODELS = {
    "a part of the module": CompiledInside,
    "the LightningModule": lambda backend: torch.compile(Silent(), backend=backend),
    "in place": InPlace,
    "every layer": Layers,
    "a function": Step,
}
