"""The next byte of Python's standard library: a transformer and an LSTM, with Adam."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.atlas.data import CONTEXT, loaders, sequences
from benchmarks.atlas.module import Trained, adam, loss_and_outputs, next_token
from benchmarks.atlas.task import EARLY, LATE, Task
from lightning_noise.study import Budget, CentredLearningRate, Goal, Search

VOCABULARY, WIDTH, HEADS = 256, 32, 2


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.queries_keys_values(x).unflatten(-1, (3, HEADS, -1))  # (B, T, 3, heads, d)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, d)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """One pre-norm block."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY))

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1]).expand_as(tokens)  # (B, T)
        x = self.token(tokens) + self.position(places)
        x = x + self.attention(x)
        return self.head(x + self.mlp(x))


class LSTM(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, 2 * WIDTH, batch_first=True)
        self.head = nn.Linear(2 * WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.token(tokens))[0])


NETS = {"transformer": Transformer, "lstm": LSTM}


def make_module(net: str, parameters: dict[str, float]) -> Trained:
    """``net`` is a name in NETS."""
    return Trained(NETS[net](), next_token, adam, **parameters)


def make_data(global_size: int, seed: int) -> Any:
    """``seed`` orders the sequences; a batch of ``global_size`` sequences."""
    return loaders(*sequences(), global_size, seed)


# A constant rate that suits batches of 256 sequences takes about 65 steps to 2.0 and 20 to 2.4, and
# one that suits batches of 4 takes hundreds to 2.0, for both nets. The goals were chosen by these
# steps alone.
COMMON = {
    "make_data": make_data,
    "goals": (Goal(metric="val_loss", target=2.0, name=LATE),),
    "further_goals": (Goal(metric="val_loss", target=2.4, name=EARLY),),
    "search": Search(trials=8, seeds=5),
    "budget": Budget(examples=100_000, steps=3_000),
    "validate_every": 64,
    "loss_and_outputs": loss_and_outputs,
    "every_n_steps": 2,
    "unit": "tokens",
    "per_example": CONTEXT,
    "paper": "Billion Word LSTM",
}
TASKS = (
    Task(
        name="bytes_transformer_adam",
        title="next byte, transformer, Adam",
        optimizer="Adam",
        make_module=partial(make_module, "transformer"),
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.04, b=22, alpha=0.5, spread=3)
        },
        sizes=(4, 8, 16, 32, 64, 128, 256),
        geometries=("hessian", "gauss_newton", "optimizer"),
        **COMMON,
    ),
    Task(
        name="bytes_lstm_adam",
        title="next byte, LSTM, Adam",
        optimizer="Adam",
        make_module=partial(make_module, "lstm"),
        # up to 0.12 the best rate of large batches lay at the upper edge
        search_space={
            "learning_rate": CentredLearningRate(eps_max=0.08, b=22, alpha=0.5, spread=6)
        },
        sizes=(2, 4, 8, 16, 32, 64, 128, 256),
        geometries=("hessian", "gauss_newton", "optimizer"),
        **COMMON,
    ),
)
