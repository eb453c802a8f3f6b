"""The models that are timed. Without Lightning, which takes seconds to import in every process."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm causal attention and feed-forward.

    Args:
        fused: whether attention is one kernel. On the CPU that kernel has no double backward.
    """

    def __init__(self, width: int, heads: int, *, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, T, ·)
        mixed = self.attention(*parts.unbind(0))
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


class Transformer(nn.Module):
    """A language model over ``vocabulary`` tokens with an untied head; of 12 · layers · width²
    parameters, tables left out.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        context: int,
        vocabulary: int = 256,
        *,
        heads: int | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        heads = heads or max(1, width // 64)
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.body = nn.Sequential(*(Block(width, heads, fused=fused) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        # per example and contiguous, as the libraries need them
        places = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
        return self.head(self.norm(self.body(self.token(tokens) + self.place(places))))

    def loss(self, tokens: Tensor) -> Tensor:
        """Of the next token, mean over tokens (B, context + 1)."""
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class EncoderLM(nn.Module):
    """A pre-norm language model of ``nn.TransformerEncoderLayer``."""

    def __init__(self, width: int, layers: int, context: int, vocabulary: int = 256) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.zeros(context, width))
        layer = nn.TransformerEncoderLayer(
            width,
            max(1, width // 64),
            4 * width,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.token(tokens) + self.position
        return self.head(self.body(embedded, mask=self.mask, is_causal=True))

    def loss(self, tokens: Tensor) -> Tensor:
        """Of the next token, mean over tokens (B, context + 1)."""
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class Residual(nn.Module):
    """Two convolutions with GroupNorm."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.conv_2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm_1, self.norm_2 = nn.GroupNorm(8, outer), nn.GroupNorm(8, outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(self.norm_2(self.conv_2(y)) + self.skip(x))


def resnet(width: int) -> nn.Module:
    """Four residual blocks, the third at half and the fourth at a quarter of the resolution."""
    widths = [width, width, width, 2 * width, 4 * width]
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)
    )


def mlp(width: int) -> nn.Module:
    """Two hidden layers on images of 28 × 28."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def random_tokens(examples: int, context: int, vocabulary: int = 256, seed: int = 0) -> Tensor:
    """Shape (examples, context + 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (examples, context + 1), generator=generator)


def parameters_of(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.parameters())
