"""Models whose parameters meet the batch in ways that need more than a rule for one operation."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.examples.called import Case


class Routed(nn.Module):
    """Every position goes to the best two of four experts.

    Args:
        style: how rows are chosen and led back: "where", "mask" or "sorted".
    """

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.first, self.gate = nn.Linear(6, 8), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        rows = hidden.view(-1, 8)
        weights, chosen = self.gate(rows).softmax(-1).topk(2, dim=-1)
        mixed = getattr(self, self.style)(rows, weights, chosen)
        return self.head(hidden + mixed.view_as(hidden).tanh())

    def where(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        masks = functional.one_hot(chosen, 4).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            rank, row = torch.where(masks[number])
            mixed = expert(rows[None, row].reshape(-1, 8)) * weights[row, rank, None]
            total.index_add_(0, row, mixed)
        return total

    def mask(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        total = rows.new_zeros(rows.shape)
        for number, expert in enumerate(self.experts):
            is_mine = chosen == number
            share = (weights * is_mine).sum(-1)
            here = is_mine.any(-1)
            total[here] += share[here].unsqueeze(-1) * expert(rows[here])
        return total

    def sorted(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.flatten().argsort()
        row = order // 2
        counts = torch.bincount(chosen.flatten(), minlength=4).tolist()
        pieces = zip(self.experts, rows[row].split(counts), strict=True)
        mixed = torch.cat([expert(piece) for expert, piece in pieces])
        mixed = mixed * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(rows).index_add(0, row, mixed)


class Grouped(nn.Module):
    """Experts as one parameter, multiplied with sorted rows in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(8, 3), nn.Linear(8, 3)
        self.weight = nn.Parameter(torch.randn(3, 8, 8))
        self.bias = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 8)
        weights, chosen = self.gate(rows).softmax(-1).max(-1)
        sorted_experts, order = torch.sort(chosen)
        ends = torch.bincount(chosen, minlength=3).cumsum(0).to(torch.int32)
        # the kernel takes no double precision
        weight = self.weight.float().transpose(1, 2)
        mixed = functional.grouped_mm(rows[order].float(), weight, offs=ends).to(x.dtype)
        mixed = (mixed + self.bias[sorted_experts]) * weights[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return self.head(mixed[back].view_as(x).tanh())


class Biased(nn.Module):
    """Attention with a bias from a network on a table of constants.

    Args:
        masked: whether attention is given the bias as its mask.
    """

    table: Tensor

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.layers = nn.Linear(6, 24)
        self.places = nn.Sequential(nn.Linear(2, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
        steps = torch.arange(5.0)
        table = steps[:, None] - steps[None, :]
        self.register_buffer("table", torch.stack([table, table.abs()], -1)[None])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.layers(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        bias = self.places(self.table).permute(0, 3, 1, 2)
        if self.masked:
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return ((query @ key.mT + bias).softmax(-1) @ value).transpose(1, 2)


class Generated(nn.Module):
    """A network makes weight and bias of another one, from a learned vector."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(4))
        self.network = nn.Sequential(nn.Linear(4, 8), nn.ELU(inplace=True), nn.Linear(8, 21))

    def forward(self, x: Tensor) -> Tensor:
        made = self.network(self.code)
        return functional.linear(x, made[:18].view(3, 6), made[18:])


class State(nn.Module):
    """A state of zeros for every example, which a learned decay meets before the batch does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 12)
        self.start, self.decay = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.layer(x).chunk(3, -1)
        state = torch.ones(len(x), 4, 4, dtype=x.dtype) * self.start
        found = []
        for t in range(x.shape[1]):
            outer = key[:, t, :, None] * value[:, t, None, :]
            state = state * self.decay.sigmoid()[:, None] + outer
            found.append(torch.einsum("bd,bde->be", query[:, t], state))
        return torch.stack(found, 1)


class Transitions(nn.Module):
    """Scores of tokens, and of pairs of tokens one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Embedding(5, 1)
        self.pairs = nn.Parameter(torch.randn(5, 5))

    def forward(self, ids: Tensor) -> Tensor:
        of_pairs = self.pairs[ids[:, :-1], ids[:, 1:]]
        return self.scores(ids).sum((1, 2)) + of_pairs.sum(1)


class Filled(nn.Module):
    """Tokens that are assigned to places of a tensor: by a mask, and to the first place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.hidden, self.first = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x).clone()
        hidden[x[..., 0] > 0] = self.hidden
        wide = torch.zeros(len(x), x.shape[1] + 1, 8, dtype=x.dtype)
        wide[:, 0] = self.first
        wide[:, 1:] = hidden
        return self.head(wide).tanh()


class Filter(nn.Module):
    """A filter of complex numbers, over frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.filter = nn.Parameter(torch.randn(4, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft(self.layer(x).transpose(1, 2))
        return torch.fft.irfft(waves * torch.view_as_complex(self.filter), n=8)


class Prototypes(nn.Module):
    """Distances to learned points, and parameters that are broadcast by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.points, self.width = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        distances = torch.cdist(self.layer(x), self.points)
        distances, width = torch.broadcast_tensors(distances, self.width)
        return distances * width.exp()


class PartlyFixed(nn.Module):
    """A part of the bias is set to zero in place, through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.layer.bias.clone()
        bias[3:6].zero_()
        return self.head(functional.linear(x, self.layer.weight, bias).tanh())


class Points(nn.Module):
    """All layers have several rows for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, 5)).view(len(x), -1, 3).sum(1)


class Pairs(nn.Module):
    """Both sides of each example go through one network, one batch after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.layer(torch.cat([x[:, 0], x[:, 1]])).chunk(2)
        return (left - right).tanh()


GROUPED = Case("experts in groups", Grouped, (4, 5, 8))
UNUSUAL = [
    Case("experts by where", lambda: Routed("where"), (4, 5, 6)),
    Case("experts by masks", lambda: Routed("mask"), (4, 5, 6)),
    Case("experts of sorted rows", lambda: Routed("sorted"), (4, 5, 6)),
    Case("experts with few rows", lambda: Routed("mask"), (2, 1, 6)),
    Case("bias from constants", lambda: Biased(masked=False), (4, 5, 6)),
    Case("bias as a mask", lambda: Biased(masked=True), (4, 5, 6)),
    Case("hypernetwork", Generated, (4, 6)),
    Case("state of every example", State, (5, 3, 5)),
    Case("pairs of tokens", Transitions, (4, 6), ids=5),
    Case("tokens assigned", Filled, (4, 6, 5)),
    Case("filter of frequencies", Filter, (5, 8, 3)),
    Case("prototypes", Prototypes, (4, 5)),
    Case("largest of embeddings", lambda: nn.EmbeddingBag(20, 5, mode="max"), (4, 6), ids=20),
    Case("bias that is partly fixed", PartlyFixed, (4, 5)),
    Case("points", Points, (4, 7, 5)),
    Case("pairs", Pairs, (4, 2, 5)),
]
