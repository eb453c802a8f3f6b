"""Small models of the kinds that people train."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """A transformer block with attention of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """Embedding and head share one table; ``recompute`` checkpoints the blocks: "" (not),
    "reentrant" or "graph".
    """

    def __init__(
        self,
        tokens: int = 20,
        width: int = 16,
        layers: int = 2,
        length: int = 7,
        recompute: str = "",
    ) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.table.weight
        self.recompute = recompute

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1]).expand_as(ids))
        for block in self.blocks:
            x = (
                checkpoint(block, x, use_reentrant=self.recompute == "reentrant")
                if self.recompute
                else block(x)
            )
        return self.head(self.norm(x))

    def loss(self, ids: Tensor) -> Tensor:
        """Sum over the next tokens of every sequence, divided by the length: add up the examples,
        divide by their number.
        """
        lost = functional.cross_entropy(
            self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
        )
        return lost / (ids.shape[1] - 1)


class Residual(nn.Module):
    """A residual block with GroupNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(2, outputs), nn.GroupNorm(2, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.short(x))


def resnet(classes: int = 5) -> nn.Module:
    """Three residual blocks."""
    blocks = Residual(10, 10, 1), Residual(10, 12, 2), Residual(12, 16, 2)
    stem = nn.Conv2d(3, 10, 3, padding=1), nn.GroupNorm(5, 10), nn.ReLU(inplace=True)
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)
    )


def mlp(inputs: int = 12, hidden: int = 20, classes: int = 5) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


class Vision(nn.Module):
    """A ViT: a class token and places are raw parameters of the model itself."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), seen], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])
