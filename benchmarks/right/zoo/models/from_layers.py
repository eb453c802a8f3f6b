"""Models written here from the layers of torch.nn, as many users write theirs. They need torch
only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import EXAMPLES, Batch, Entry
from benchmarks.right.zoo.tasks import CLASSES, WORDS


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, CLASSES))


def convolutional(norm: type[nn.Module] | None) -> nn.Module:
    """Two convolutions; ``norm`` is BatchNorm2d, or ``None`` for GroupNorm."""
    layers: list[nn.Module] = []
    for inner, outer in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1)]
        layers += [nn.GroupNorm(4, outer) if norm is None else norm(outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 8 * 8, CLASSES))


class Recurrent(nn.Module):
    """A language model, or a classifier by the mean of the states."""

    def __init__(self, kind: type[nn.RNNBase], classes: int = 0, **arguments: bool) -> None:
        super().__init__()
        arguments = {"batch_first": True, **arguments}
        self.batch_first = arguments["batch_first"]
        self.embedding = nn.Embedding(WORDS, 16)
        self.recurrent = kind(16, 24, num_layers=2, **arguments)
        width = 48 if arguments.get("bidirectional") else 24
        self.head = nn.Linear(width, classes or WORDS)
        self.classifies = classes > 0

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens if self.batch_first else tokens.T)
        states, _ = self.recurrent(embedded)
        if self.classifies:
            return self.head(states.mean(1))
        logits = self.head(states)
        return logits if self.batch_first else logits.transpose(0, 1)


class Cell(nn.Module):
    """An LSTMCell, unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.cell = nn.LSTMCell(16, 24)
        self.head = nn.Linear(24, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        state, outputs = None, []
        for column in self.embedding(tokens).unbind(1):
            state = self.cell(column, state)
            outputs.append(self.head(state[0]))
        return torch.stack(outputs, 1)


class Encoder(nn.Module):
    """nn.TransformerEncoder with a class token and a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.class_token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 10, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class Translator(nn.Module):
    """nn.Transformer, with the batch first or second."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = nn.Embedding(WORDS, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, 32, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(16, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.float32)
        pair = [self.embedding(source), self.embedding(target)]
        if not self.batch_first:
            pair = [one.transpose(0, 1) for one in pair]
        states = self.transformer(*pair, tgt_mask=mask.to(pair[0].dtype))
        return self.head(states if self.batch_first else states.transpose(0, 1))


def translate(model: nn.Module, batch: Batch) -> Tensor:
    return tasks.next_words(model(*batch), batch[1])


class CausalConvolutions(nn.Module):
    """A temporal convolutional network with weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        layers = [nn.Conv1d(16, 16, 3, dilation=2**i) for i in range(3)]
        self.layers = nn.ModuleList(parametrizations.weight_norm(layer) for layer in layers)
        self.head = nn.Linear(16, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = x + F.relu(layer(F.pad(x, (2 * 2**i, 0))))
        return self.head(x.transpose(1, 2))


class PointNet(nn.Module):
    """A network on sets of points, by a maximum over them."""

    def __init__(self, norm: type[nn.Module] | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((3, 16), (16, 32)):
            layers.append(nn.Conv1d(inner, outer, 1))
            layers.append(nn.GroupNorm(4, outer) if norm is None else norm(outer))
            layers.append(nn.ReLU())
        self.points = nn.Sequential(*layers)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x).amax(2))


class Autoencoder(nn.Module):
    """Convolutions down, transposed convolutions up, PReLU and InstanceNorm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 12, 4, 2, 1), nn.InstanceNorm2d(12, affine=True), nn.PReLU(12)
        )
        self.up = nn.ConvTranspose2d(12, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class Variational(nn.Module):
    """A variational autoencoder; the noise is part of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 12))

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        found = self.decoder(mean + noise * (log_variance / 2).exp())
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return (F.mse_loss(found, x, reduction="none").sum(1) + divergence).mean()


class Bags(nn.Module):
    """A recommender: bags of items, their pairwise products, an MLP on top."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(WORDS, 8, mode="mean")
        self.users = nn.Embedding(WORDS, 8)
        self.pair = nn.Bilinear(8, 8, 6)
        self.head = nn.Linear(6 + 1, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        items, user = self.items(tokens[:, 1:]), self.users(tokens[:, 0])
        product = (items * user).sum(1, keepdim=True)
        return self.head(torch.cat([self.pair(items, user), product], 1))


class Siamese(nn.Module):
    """One tower for anchor, positive and negative."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))

    def triplets(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return F.triplet_margin_loss(self.tower(a), self.tower(b), self.tower(c), margin=5.0)

    def in_batch(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = F.normalize(self.tower(a)), F.normalize(self.tower(b))
        return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(a)))


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank addition."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(12, 32).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, 12) / 4)
        self.up = nn.Parameter(torch.randn(32, 4) / 4)
        self.head = nn.Linear(32, CLASSES).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.base(x) + x @ self.down.T @ self.up.T))


class Graph(nn.Module):
    """Message passing by index_add over the edges of every example's own graph, all graphs joined
    into one inside of forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(5, 16), nn.Linear(5, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        graphs, size, width = nodes.shape
        offset = torch.arange(graphs)[:, None, None] * size
        source, target = (edges + offset).flatten(0, 1).T
        flat = nodes.reshape(-1, width)
        sent = self.message(flat[source])
        gathered = torch.zeros(len(flat), 16, dtype=sent.dtype).index_add(0, target, sent)
        states = F.relu(self.update(flat) + gathered)
        return self.head(states.view(graphs, size, -1).mean(1))


def graphs(n: int) -> Batch:
    """Eight nodes and eleven edges per example."""
    nodes, edges = torch.randn(n, 8, 5), torch.randint(8, (n, 11, 2))
    return nodes, edges, torch.randint(CLASSES, (n,))


def classify_pair(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(*batch[:-1]), batch[-1])


def features(copies: int) -> tuple[Tensor, ...]:
    return lambda n: tuple(torch.randn(n, 12) for _ in range(copies))


def entry(name: str, build, draw, loss=tasks.classify) -> Entry:
    return Entry(name, "torch", build, draw, loss)


ENTRIES = (
    entry("MLP with LayerNorm", mlp, tasks.numbers(12)),
    entry("CNN with GroupNorm", lambda: convolutional(None), tasks.images(32)),
    entry("CNN with BatchNorm", lambda: convolutional(nn.BatchNorm2d), tasks.images(32)),
    entry("LSTM language model", lambda: Recurrent(nn.LSTM), tasks.words(), tasks.continue_words),
    entry(
        "LSTM language model, time first",
        lambda: Recurrent(nn.LSTM, batch_first=False),
        tasks.words(),
        tasks.continue_words,
    ),
    entry("GRU language model", lambda: Recurrent(nn.GRU), tasks.words(), tasks.continue_words),
    entry(
        "bidirectional LSTM classifier",
        lambda: Recurrent(nn.LSTM, CLASSES, bidirectional=True),
        tasks.sentences(),
    ),
    entry("RNN classifier", lambda: Recurrent(nn.RNN, CLASSES), tasks.sentences()),
    entry("LSTMCell, unrolled", Cell, tasks.words(), tasks.continue_words),
    entry("nn.TransformerEncoder classifier", Encoder, tasks.sentences()),
    entry("nn.Transformer, batch first", lambda: Translator(True), tasks.translations(), translate),
    entry("nn.Transformer, time first", lambda: Translator(False), tasks.translations(), translate),
    entry(
        "nn.Transformer, time first, as many words as examples",
        lambda: Translator(False),
        tasks.translations(EXAMPLES, EXAMPLES),
        translate,
    ),
    entry("TCN with weight norm", CausalConvolutions, tasks.words(), tasks.continue_words),
    entry("PointNet with GroupNorm", lambda: PointNet(None), tasks.numbers(3, 20)),
    entry("PointNet with BatchNorm", lambda: PointNet(nn.BatchNorm1d), tasks.numbers(3, 20)),
    entry("convolutional autoencoder", Autoencoder, tasks.pictures(16), tasks.imitate),
    entry(
        "variational autoencoder",
        Variational,
        lambda n: (torch.randn(n, 12), torch.randn(n, 4)),
        lambda model, batch: model.loss(*batch),
    ),
    entry("recommender with EmbeddingBag and Bilinear", Bags, tasks.sentences()),
    entry(
        "Siamese network, triplets",
        Siamese,
        features(3),
        lambda model, batch: model.triplets(*batch),
    ),
    entry(
        "two towers, in-batch InfoNCE",
        Siamese,
        features(2),
        lambda model, batch: model.in_batch(*batch),
    ),
    entry("low-rank adapter on a frozen layer", Adapted, tasks.numbers(12)),
    entry("message passing by index_add", Graph, graphs, classify_pair),
)
