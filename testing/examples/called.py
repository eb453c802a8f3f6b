"""Models whose parameters meet the batch in calls of functions: no layer's hook sees them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from testing.examples.models import Vision


class Case(NamedTuple):
    """A model, and the size of its input, examples first.

    Args:
        name: of the case.
        make: the model.
        shape: of its input.
        ids: integers below this instead of normal numbers.
        missing: parameters that are left out by name.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ids: int = 0
    missing: frozenset[str] = frozenset()


class Attention(nn.Module):
    """``nn.MultiheadAttention`` between two layers, in either order of dimensions."""

    def __init__(self, time_first: bool = False, **options: Any) -> None:
        super().__init__()
        self.time_first = time_first
        self.attend = nn.MultiheadAttention(8, 2, batch_first=not time_first, **options)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.time_first:
            x = x.transpose(0, 1)
        x = self.last(self.attend(x, x, x, need_weights=False)[0])
        return x.transpose(0, 1) if self.time_first else x


class Decoder(nn.Module):
    """Learned queries that look at the input."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.norm = nn.LayerNorm(8)
        self.decode = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        if self.time_first:
            queries = self.norm(self.queries.unsqueeze(1).repeat(1, len(x), 1)).transpose(0, 1)
        else:
            queries = self.norm(self.queries.unsqueeze(0).expand(len(x), -1, -1))
        return self.decode(queries, x)


class Projection(nn.Module):
    """GPT-2's linear layer: the weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], -1)


class Normalised(nn.Module):
    """A norm of its own, a scale of a branch, and a mask token."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.branch = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.where(x[..., :1] > 0.5, self.token, x)
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x + self.scale * self.branch((1 + self.weight) * normed)


class Shifted(nn.Embedding):
    """OPT's table of positions, and one without the batch beside it."""

    def __init__(self) -> None:
        super().__init__(20, 8)
        self.places = nn.Embedding(9, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        seen = super().forward(ids + 2) + self.places(torch.arange(ids.size(1)))
        return functional.linear(self.last(seen.tanh()).tanh(), self.last.weight.t())


class Windows(nn.Module):
    """Swin's attention in shifted windows with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.last = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(9, 2))
        grid = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        offsets = grid[:, None] - grid[None] + 1
        self.register_buffer("index", offsets[..., 0] * 3 + offsets[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        count, height, width, _ = x.shape
        x = torch.roll(x, (-1, -1), (1, 2)).view(count, height // 2, 2, width // 2, 2, 8)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        q, k, v = self.qkv(x).reshape(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(4, 4, 2).permute(2, 0, 1).unsqueeze(0)
        x = ((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, 8)
        x = self.last(x).view(count, height // 2, width // 2, 2, 2, 8)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(count, height, width, 8)


class Experts(nn.Module):
    """Every expert on every token, weighted by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.inner, self.outer = (
            nn.Parameter(torch.randn(3, 6, 7)),
            nn.Parameter(torch.randn(3, 7, 6)),
        )
        self.bias = nn.Parameter(torch.randn(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        count, times, width = x.shape
        flat = x.reshape(-1, width)
        shares = self.gate(flat).softmax(-1).t().reshape(3, count, times, 1)
        hidden = torch.bmm(flat.repeat(3, 1).view(3, -1, width), self.inner)
        hidden = torch.bmm((hidden + self.bias[:, None]).tanh(), self.outer)
        return (hidden.view(3, count, times, width) * shares).sum(0)


class Products(nn.Module):
    """Attention in einsums."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Parameter(torch.randn(8, 2, 4)), nn.Parameter(torch.randn(2, 4, 8))
        self.bias = nn.Parameter(torch.randn(2, 5, 5))
        self.mix = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix @ x
        q = torch.einsum("bsd,dhk->bshk", x, self.into)
        scores = torch.einsum("bshk,bthk->bhst", q, q) + self.bias
        seen = torch.einsum("bhst,bthk->bshk", scores.softmax(-1), q)
        return torch.einsum("...hk,hkd->...d", seen, self.out)


class Recurrent(nn.Module):
    """A recurrent layer, all of whose outputs enter the result."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(5, 6, **options)
        self.last = nn.Linear(6 * (1 + self.layer.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.layer.batch_first:
            x = x.transpose(0, 1)
        y, ends = self.layer(x)
        if not self.layer.batch_first:
            y = y.transpose(0, 1)
        states = ends if isinstance(ends, tuple) else (ends,)
        return self.last(y).sum(1) + sum(state[-1].sum(-1, keepdim=True) for state in states)


class Cell(nn.Module):
    """A cell that is called step by step."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.last = kind(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: Any = None
        for time in range(x.shape[1]):
            states = self.cell(x[:, time], states)
        return self.last(states[0] + states[1] if isinstance(states, tuple) else states)


class Frames(nn.Module):
    """Convolutions on frames, folded into the dimension of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.norm(self.convolve(x.flatten(0, 1)))
        return y.mean((2, 3)).view(*x.shape[:2], -1)


class Recomputed(nn.Module):
    """Attention in a checkpointed part, in either order of dimensions."""

    def __init__(self, reentrant: bool, time_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=not time_first)
        self.layer, self.reentrant, self.time_first = layer, reentrant, time_first
        self.places, self.scale = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places
        if self.time_first:
            x = x.transpose(0, 1)
        part = lambda y: self.scale * self.layer(y)  # noqa: E731
        x = checkpoint(part, x, use_reentrant=self.reentrant)
        return x.transpose(0, 1) if self.time_first else x


class InPlace(nn.Module):
    """A sum and a product that change their input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.shift, self.scale = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += self.shift
        y = self.last(x)
        y *= self.scale
        return y


def flat(layer: nn.Module, width: int) -> nn.Module:
    """A layer and a head."""
    return nn.Sequential(layer, nn.Flatten(), nn.Tanh(), nn.Linear(width, 3))


CASES = [
    Case("attention", Attention, (4, 5, 8)),
    Case("attention, as many positions as examples", Attention, (5, 5, 8)),
    Case("attention, time first", lambda: Attention(True), (4, 5, 8)),
    Case("attention, time first, as many times as examples", lambda: Attention(True), (5, 5, 8)),
    Case("attention with learned keys", lambda: Attention(add_bias_kv=True), (4, 5, 8)),
    Case("attention, three weights", lambda: Attention(kdim=8, vdim=8), (4, 5, 8)),
    Case("attention to learned queries", Decoder, (4, 5, 8)),
    Case("attention to learned queries, time first", lambda: Decoder(True), (4, 5, 8)),
    Case("vision transformer", Vision, (4, 3, 8, 8)),
    Case("GPT-2's linear layer", lambda: Projection(6, 8), (4, 5, 6)),
    Case("own norm, scale, mask token", Normalised, (4, 5, 8)),
    Case("tables of positions, tied head", Shifted, (4, 6), ids=17),
    Case("windows", Windows, (3, 4, 4, 8)),
    Case("as many windows as examples", Windows, (4, 4, 4, 8)),
    Case("experts", Experts, (4, 5, 6)),
    Case("einsum", Products, (4, 5, 8)),
    Case("LSTM", lambda: Recurrent(nn.LSTM, batch_first=True), (4, 7, 5)),
    Case("LSTM, deep", lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (4, 7, 5)),
    Case("GRU, deep", lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True), (4, 7, 5)),
    Case("RNN", lambda: Recurrent(nn.RNN, bias=False), (4, 4, 5)),
    Case("LSTM cell", lambda: Cell(nn.LSTMCell), (4, 7, 5)),
    Case("GRU cell", lambda: Cell(nn.GRUCell), (4, 7, 5)),
    Case("frames", Frames, (3, 4, 3, 6, 6)),
    Case("weight norm", lambda: parametrizations.weight_norm(nn.Linear(5, 6)), (4, 7, 5)),
    Case("PReLU", lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.PReLU(4), nn.PReLU()), (4, 3, 9)),
    Case("bag of embeddings", lambda: nn.EmbeddingBag(20, 5, padding_idx=2), (4, 6), ids=20),
    Case("sum of embeddings", lambda: nn.EmbeddingBag(20, 5, mode="sum"), (4, 6), ids=20),
    Case("batch norm of the past", lambda: flat(nn.BatchNorm1d(3).eval(), 12), (4, 3, 4)),
    Case("affine instance norm", lambda: flat(nn.InstanceNorm1d(3, affine=True), 12), (4, 3, 4)),
    Case("in place", InPlace, (4, 5, 8), missing=frozenset({"scale"})),
    *[
        Case(f"checkpointed, {reentrant=}, {time_first=}, {times}", make, (5, times, 8))
        for reentrant in (True, False)
        for time_first in (True, False)
        for times in (5,)
        for make in [lambda r=reentrant, t=time_first: Recomputed(r, t)]
    ],
]
