"""Models and losses that mix the examples of a batch, and ordinary ones that do not."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from testing.examples.models import Block, LanguageModel, mlp, resnet

B = 6


class Case(NamedTuple):
    """A model, a loss of it on one batch, and how many examples that holds."""

    name: str
    model: nn.Module
    loss: Callable[[], Tensor]
    examples: int = B


def classes(count: int = 5) -> Tensor:
    return torch.arange(B) % count


class Towers(nn.Module):
    """Two towers that embed what belongs together."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(12, 20, 8), mlp(12, 20, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Similarities of all pairs."""
        left, right = self.left(x), self.right(x.flip(1))
        return functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T


def info_nce() -> Case:
    model, x = Towers(), torch.randn(B, 12)

    def loss() -> Tensor:
        scores = model(x)
        rows, columns = (functional.cross_entropy(s, torch.arange(B)) for s in (scores, scores.T))
        return rows + columns

    return Case("InfoNCE", model, loss)


def one_way_info_nce() -> Case:
    model, x = Towers(), torch.randn(B, 12)
    loss = lambda: functional.cross_entropy(model(x), torch.arange(B))  # noqa: E731
    return Case("InfoNCE one way", model, loss)


def in_batch_hinge() -> Case:
    model, x = nn.ModuleList([nn.Linear(12, 8), nn.Linear(12, 8)]), torch.randn(B, 12)

    def loss() -> Tensor:
        scores = model[0](x) @ model[1](x.flip(1)).T
        return (0.5 + scores - scores.diagonal().unsqueeze(1)).relu().mean()

    return Case("in-batch hinge", model, loss)


def time_major_encoder() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Linear(8, 5),
    )
    x = torch.randn(B, B, 4)
    return Case("nn.TransformerEncoder time first", model, lambda: model(x).mean(0).square().mean())


def time_major_attention() -> Case:
    model, x = (
        nn.Sequential(nn.Linear(4, 8), Attention(dim=0), nn.Linear(8, 5)),
        torch.randn(B, B, 4),
    )
    return Case("own attention time first", model, lambda: model(x).square().mean())


def causal_time_major_attention() -> Case:
    """The first row sees itself alone."""
    model = nn.Sequential(nn.Linear(4, 8), Attention(dim=0, causal=True), nn.Linear(8, 5))
    x = torch.randn(B, B, 4)
    return Case("causal attention time first", model, lambda: model(x).square().mean())


def attention_across_the_batch() -> Case:
    model, x = nn.Sequential(nn.Linear(4, 8), Attention(dim=0), nn.Linear(8, 5)), torch.randn(B, 4)
    return Case(
        "attention across the batch",
        model,
        lambda: functional.cross_entropy(model(x.unsqueeze(1)).squeeze(1), classes()),
    )


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.batch_norm(self.first(x), None, None, training=True).relu())


def batch_statistics() -> Case:
    model, x = Normalised(), torch.randn(B, 12)
    loss = lambda: functional.cross_entropy(model(x), classes())  # noqa: E731
    return Case("functional batch_norm", model, loss)


class Centred(nn.Module):
    """Linear mixing, and below a linear loss: nothing has any curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x - 0.3 * x.roll(1, 0))


def linear_mixing() -> Case:
    model, x = Centred(), torch.randn(B, 12)
    weights = torch.randn(B, 5)
    return Case("rows subtracted from rows", model, lambda: (model(x) * weights).sum())


def root_mean_square() -> Case:
    model, x = mlp(), torch.randn(B, 12)
    return Case("root mean square error", model, lambda: (model(x) - 1).square().mean().sqrt())


class Attention(nn.Module):
    """Attention along ``dim`` without parameters."""

    def __init__(self, dim: int = 1, causal: bool = False) -> None:
        super().__init__()
        self.dim, self.causal = dim, causal

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -2)
        scores = x @ x.mT
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ x).movedim(-2, self.dim)


MIXED_LAYERS = (
    (time_major_encoder, "1.layers.0.norm2"),
    (time_major_attention, "0"),
    (causal_time_major_attention, "0"),
    (attention_across_the_batch, "0"),
    (batch_statistics, "first"),
    (linear_mixing, "first"),
)
COUPLING_LOSSES = (info_nce, one_way_info_nce, in_batch_hinge, root_mean_square)


def classifier() -> Case:
    model, x = mlp(), torch.randn(B, 12)
    return Case("MLP, cross-entropy", model, lambda: functional.cross_entropy(model(x), classes()))


def regression() -> Case:
    model, x = mlp(), torch.randn(B, 12)
    return Case("MLP, squared error", model, lambda: (model(x) - 1).square().mean())


def batch_first_attention() -> Case:
    model, x = nn.Sequential(nn.Linear(4, 8), Attention(), nn.Linear(8, 5)), torch.randn(B, B, 4)
    return Case("attention, as many positions as examples", model, lambda: model(x).square().mean())


def group_norm_convolution() -> Case:
    model, x = resnet(), torch.randn(B, 3, 8, 8)
    loss = lambda: functional.cross_entropy(model(x), classes())  # noqa: E731
    return Case("convolution, GroupNorm", model, loss)


def masked_token_mean() -> Case:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(B, 7, 4)
    mask = torch.arange(7) < torch.arange(1, B + 1).unsqueeze(1)
    return Case("token mean with a mask", model, lambda: model(x).square().sum(2)[mask].mean())


def weight_penalty() -> Case:
    model, x = mlp(), torch.randn(B, 12)

    def loss() -> Tensor:
        return functional.cross_entropy(model(x), classes()) + 0.1 * model[2].weight.square().sum()

    return Case("weight penalty", model, loss)


def layer_norm_transformer() -> Case:
    model, x = nn.Sequential(Block(16, 4), Block(16, 4), nn.Linear(16, 3)), torch.randn(B, 7, 16)
    return Case("LayerNorm transformer", model, lambda: model(x).square().mean())


def tied_language_model(recompute: str = "") -> Case:
    model, ids = LanguageModel(recompute=recompute), torch.randint(20, (B, 7))
    return Case(f"tied language model {recompute}".strip(), model, lambda: model.loss(ids) / B)


def embedding_model() -> Case:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5))
    ids = torch.randint(9, (B, 3))
    return Case("embedding model", model, lambda: functional.cross_entropy(model(ids), classes()))


def integers_as_they_come() -> Case:
    """Examples 0, 1, 2, …: what a table of positions is asked for too."""
    model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 5))
    loss = lambda: functional.cross_entropy(model(torch.arange(B)), classes())  # noqa: E731
    return Case("ids in order", model, loss)


def dropout() -> Case:
    model, x = (
        nn.Sequential(nn.Linear(12, 20), nn.Dropout(0.4), nn.Linear(20, 5)),
        torch.randn(B, 12),
    )
    return Case("dropout", model, lambda: functional.cross_entropy(model(x), classes()))


def autocast() -> Case:
    model, x = nn.Sequential(nn.Linear(4, 8), Attention(), nn.Linear(8, 5)), torch.randn(B, 7, 4)

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return functional.cross_entropy(model(x).mean(1), classes())

    return Case("autocast bf16", model, loss)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_variance, self.decode = (
            nn.Linear(12, 3),
            nn.Linear(12, 3),
            mlp(3, 9, 12),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.mean(x), self.log_variance(x)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decode(z), mean, log_variance


def variational_autoencoder() -> Case:
    model, x = Autoencoder(), torch.randn(B, 12)

    def loss() -> Tensor:
        out, mean, log_variance = model(x)
        latent = mean.square() + log_variance.exp() - log_variance
        return (out - x).square().sum(1).mean() + 0.5 * latent.sum(1).mean()

    return Case("variational autoencoder", model, loss)


def two_passes_through_one_model() -> Case:
    """A discriminator on real and generated examples."""
    model, x = mlp(classes=1), torch.randn(2, B, 12)

    def loss() -> Tensor:
        return functional.softplus(-model(x[0])).mean() + functional.softplus(model(x[1])).mean()

    return Case("two passes through one model", model, loss)


def in_place_views() -> Case:
    first, last = nn.Linear(4, 8), nn.Linear(8, 5)
    model = nn.Sequential(first, nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))
    x = torch.randn(B, 7, 4)
    return Case("in-place activations on views", model, lambda: model(x).square().mean())


ORDINARY = (
    classifier,
    regression,
    batch_first_attention,
    group_norm_convolution,
    masked_token_mean,
    weight_penalty,
    layer_norm_transformer,
    tied_language_model,
    embedding_model,
    integers_as_they_come,
    dropout,
    autocast,
    variational_autoencoder,
    two_passes_through_one_model,
    in_place_views,
)


class Recomputed(nn.Module):
    """A checkpointed middle between layers that are not."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(12, 9), nn.Linear(9, 9), nn.Linear(9, 5)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda y: self.middle(y).tanh(), self.first(x), use_reentrant=self.reentrant)
        return self.last(x)


def recomputed(reentrant: bool) -> Case:
    model, x = Recomputed(reentrant), torch.randn(B, 12)
    return Case("recomputed", model, lambda: functional.cross_entropy(model(x), classes()))
