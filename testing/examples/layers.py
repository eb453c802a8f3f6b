"""Layers in every shape and with every option that the rules know, each with an input batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Case(NamedTuple):
    """One layer and what it is called with; ``seed`` fixes weights and data."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of the input, examples first
    ids: int = 0  # input of integers below this instead of normal numbers

    def build(self) -> tuple[nn.Module, Tensor]:
        """The layer and its input in fp64, the global random state untouched."""
        with torch.random.fork_rng():
            torch.manual_seed(len(self.name))
            layer = self.make().double()
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
            x = (
                torch.randint(self.ids, self.shape)
                if self.ids
                else torch.randn(self.shape, dtype=torch.float64)
            )
        return layer, x


CASES = [
    Case("linear", lambda: nn.Linear(5, 3), (4, 5)),
    Case("linear without bias", lambda: nn.Linear(5, 3, bias=False), (4, 5)),
    Case("linear on a sequence", lambda: nn.Linear(5, 3), (4, 7, 5)),
    Case("linear on a sequence of one", lambda: nn.Linear(5, 3), (4, 1, 5)),
    Case("linear, wide, few positions (Gram)", lambda: nn.Linear(40, 30), (3, 2, 40)),
    Case("linear on an image", lambda: nn.Linear(4, 6), (3, 2, 3, 2, 4)),
    Case("linear to one", lambda: nn.Linear(6, 1), (3, 4, 6)),
    Case("conv1d", lambda: nn.Conv1d(3, 4, 3), (4, 3, 9)),
    Case(
        "conv1d, stride, dilation, padding",
        lambda: nn.Conv1d(3, 4, 3, stride=2, dilation=2, padding=3),
        (4, 3, 11),
    ),
    Case("conv1d same, even kernel", lambda: nn.Conv1d(3, 4, 4, padding="same"), (4, 3, 9)),
    Case("conv1d, many channels", lambda: nn.Conv1d(8, 4, 3, padding=1), (4, 8, 9)),
    Case("conv2d", lambda: nn.Conv2d(3, 4, 3), (4, 3, 6, 5)),
    Case("conv2d without bias", lambda: nn.Conv2d(3, 4, 3, bias=False), (4, 3, 6, 5)),
    Case("conv2d 1x1", lambda: nn.Conv2d(6, 4, 1), (4, 6, 4, 3)),
    Case("conv2d, one output position", lambda: nn.Conv2d(3, 4, 5), (4, 3, 5, 5)),
    Case(
        "conv2d, odd everything",
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 3), groups=2),
        (3, 4, 9, 8),
    ),
    Case(
        "conv2d, odd and wide",
        lambda: nn.Conv2d(24, 6, (3, 2), (2, 3), (2, 1), (1, 2), groups=3),
        (3, 24, 9, 8),
    ),
    Case("conv2d, padding beyond the kernel", lambda: nn.Conv2d(4, 3, 2, padding=3), (3, 4, 4, 3)),
    Case("conv2d, stride beyond the kernel", lambda: nn.Conv2d(4, 3, 2, stride=3), (3, 4, 8, 7)),
    Case("conv2d, depthwise", lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (3, 6, 5, 5)),
    Case(
        "conv2d, depthwise, two each",
        lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6),
        (3, 6, 5, 5),
    ),
    Case(
        "conv2d same",
        lambda: nn.Conv2d(4, 3, (3, 4), dilation=(2, 1), padding="same"),
        (3, 4, 7, 6),
    ),
    Case("conv2d valid", lambda: nn.Conv2d(4, 3, 2, padding="valid"), (3, 4, 5, 5)),
    Case(
        "conv2d reflect",
        lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"),
        (3, 3, 6, 5),
    ),
    Case(
        "conv2d replicate, same",
        lambda: nn.Conv2d(9, 4, (2, 3), padding="same", padding_mode="replicate"),
        (3, 9, 6, 5),
    ),
    Case(
        "conv2d circular, stride",
        lambda: nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular"),
        (3, 3, 6, 5),
    ),
    Case("conv3d", lambda: nn.Conv3d(2, 3, 2), (3, 2, 4, 3, 5)),
    Case(
        "conv3d, odd",
        lambda: nn.Conv3d(4, 6, (2, 3, 1), (1, 2, 2), (1, 0, 2), (2, 1, 1), groups=2),
        (2, 4, 5, 6, 4),
    ),
    Case("conv3d, many channels", lambda: nn.Conv3d(16, 2, 2, padding=1), (2, 16, 3, 3, 2)),
    Case("embedding", lambda: nn.Embedding(9, 4), (5, 12), ids=9),
    Case("embedding, padding", lambda: nn.Embedding(9, 4, padding_idx=2), (5, 12), ids=9),
    Case("embedding, negative padding", lambda: nn.Embedding(9, 4, padding_idx=-1), (5, 12), ids=9),
    Case("embedding of single numbers", lambda: nn.Embedding(9, 4), (5,), ids=9),
    Case("embedding of grids", lambda: nn.Embedding(9, 4), (5, 3, 2), ids=9),
    Case("embedding, sparse", lambda: nn.Embedding(9, 4, sparse=True), (5, 12), ids=9),
    Case("layer norm", lambda: nn.LayerNorm(6), (4, 6)),
    Case("layer norm on a sequence", lambda: nn.LayerNorm(6, eps=0.1), (4, 7, 6)),
    Case("layer norm over two dimensions", lambda: nn.LayerNorm((3, 6)), (4, 7, 2, 3, 6)),
    Case("layer norm without bias", lambda: nn.LayerNorm(6, bias=False), (4, 7, 6)),
    Case("rms norm", lambda: nn.RMSNorm(6), (4, 6)),
    Case("rms norm on a sequence", lambda: nn.RMSNorm(6, eps=0.1), (4, 7, 6)),
    Case("rms norm over two dimensions", lambda: nn.RMSNorm((3, 6)), (4, 7, 3, 6)),
    Case("group norm", lambda: nn.GroupNorm(2, 6), (4, 6, 3, 5)),
    Case("group norm without space", lambda: nn.GroupNorm(2, 6, eps=0.1), (4, 6)),
    Case("group norm on a sequence", lambda: nn.GroupNorm(3, 6), (4, 6, 9)),
]
