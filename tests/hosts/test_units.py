"""What a batch size counts: tokens, graphs, packed sequences, time-major data; each a small model
against a loop by hand.
"""

import statistics
from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from lightning_noise import Examples, GradientNoiseScale, estimate_noise_scale
from lightning_noise.core.moments import from_contributions
from testing.counts import (
    PAD,
    count_graphs,
    count_series,
    count_tokens,
    number_of_time_steps,
)
from testing.toys import fit


class Model(L.LightningModule):
    """Double precision, weights that do not move."""

    def __init__(self):
        super().__init__()
        self.build()
        self.double()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def token_losses(logits, targets):
    """(B, T) losses, 0 at the padding."""
    return nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=PAD, reduction="none"
    )


class Padded(Model):
    """Next-token prediction on sequences of different lengths, the mean over all real tokens."""

    def build(self):
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def loss(self, batch):
        inputs, targets = batch
        return token_losses(
            self.head(self.table(inputs).cumsum(dim=1)), targets
        ).sum() / count_tokens(batch)


def sentences(generator, number):
    lengths = torch.randint(2, 8, (number,), generator=generator).tolist()
    drawn = [torch.randint(1, 11, (length + 1,), generator=generator) for length in lengths]
    together = nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=PAD)
    return together[:, :-1], together[:, 1:]


@dataclass
class Graphs:
    """As graph libraries batch them: the nodes of all graphs in one tensor."""

    nodes: torch.Tensor  # (N, 3)
    edges: torch.Tensor  # (2, E)
    graph: torch.Tensor  # (N,) which graph a node is of
    targets: torch.Tensor  # (graphs,)


class Network(Model):
    """Two rounds of messages along the edges, the mean over the nodes, one number a graph."""

    def build(self):
        self.first, self.second, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def loss(self, batch):
        x = batch.nodes
        for layer in (self.first, self.second):
            x = layer(x)
            x = torch.tanh(x + torch.zeros_like(x).index_add(0, batch.edges[1], x[batch.edges[0]]))
        sums = x.new_zeros(len(batch.targets), 5).index_add(0, batch.graph, x)
        means = sums / torch.bincount(batch.graph)[:, None]
        return (self.head(means)[:, 0] - batch.targets).square().mean()


def graphs(generator, number):
    sizes = torch.randint(3, 9, (number,), generator=generator)
    starts = sizes.cumsum(0) - sizes
    edges = [
        start + torch.randint(int(size), (2, 2 * int(size)), generator=generator)
        for start, size in zip(starts, sizes, strict=True)
    ]
    nodes = torch.randn(int(sizes.sum()), 3, generator=generator, dtype=torch.float64)
    graph = torch.repeat_interleave(torch.arange(number), sizes)
    return Graphs(
        nodes,
        torch.cat(edges, dim=1),
        graph,
        torch.randn(number, generator=generator, dtype=torch.float64),
    )


class Packed(Model):
    """A recurrent network on a PackedSequence, the mean over all time steps."""

    def build(self):
        self.recurrent, self.head = nn.GRU(3, 4), nn.Linear(4, 1)

    def loss(self, batch):
        states, _ = self.recurrent(batch)
        return (self.head(states.data)[:, 0] - batch.data.sum(dim=1).sin()).square().mean()


def packed(generator, number):
    lengths = torch.randint(2, 8, (number,), generator=generator).tolist()
    return pack_sequence(
        [
            torch.randn(n, 3, generator=generator, dtype=torch.float64)
            for n in sorted(lengths, reverse=True)
        ]
    )


class TimeMajor(Model):
    """Series of length 6 that lie along dimension 0, the batch along dimension 1; one target a
    series.
    """

    def build(self):
        self.recurrent, self.head = nn.RNN(3, 4), nn.Linear(4, 1)

    def loss(self, batch):
        series, targets = batch
        _, last = self.recurrent(series)
        return (self.head(last[0])[:, 0] - targets).square().mean()


def time_major(generator, number):
    x = torch.randn(6, number, 3, generator=generator, dtype=torch.float64)
    return x, x.sum(dim=(0, 2)).sin()


class Case(NamedTuple):
    name: str
    model: type
    draw: object
    count: object
    unit: str
    default: object  # what would be counted without the function, wrong or in another unit


CASES = [
    Case("tokens", Padded, sentences, count_tokens, "tokens", lambda batch: len(batch[0])),
    Case("graphs", Network, graphs, count_graphs, "graphs", lambda batch: len(batch.nodes)),
    Case(
        "packed",
        Packed,
        packed,
        number_of_time_steps,
        "time steps",
        lambda batch: int(batch.batch_sizes[0]),
    ),
    Case("time-major", TimeMajor, time_major, count_series, "series", lambda batch: len(batch[0])),
]


def batches(case, sizes=(5, 4, 6, 5, 3, 5, 4, 7, 5, 6, 4, 5)):
    generator = torch.Generator().manual_seed(3)
    return [case.draw(generator, size) for size in sizes]


def listed(found):
    return DataLoader(found, batch_size=None)


def gradient(module, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])


def by_hand(module, found, count, accumulate=2):
    """Two backward passes a step; the accumulated gradient weighs micro-batches alike."""
    moments = []
    for start in range(0, len(found), accumulate):
        window = found[start : start + accumulate]
        grads = [gradient(module, module.loss(batch)) / len(window) for batch in window]
        total = sum(grads)
        weights = [1 / len(window)] * len(window)
        moments.append(
            from_contributions(
                [float(g @ g) for g in grads],
                weights,
                [count(b) for b in window],
                float(total @ total),
            )
        )
    return estimate_noise_scale(moments, decay=0.99)


def agree(estimate, hand):
    assert (estimate.noise, estimate.signal) == (
        pytest.approx(hand.noise, rel=1e-9),
        pytest.approx(hand.signal, rel=1e-9),
    )
    assert estimate.steps == hand.steps


@pytest.mark.parametrize("given", ["function", "dotted path"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_number_is_in_the_unit_and_the_verdict_names_it(case, given, capsys):
    count = case.count if given == "function" else f"testing.counts.{case.count.__name__}"
    module, found, callback = case.model(), batches(case), GradientNoiseScale(batch_size_fn=count)
    fit(module, listed(found), callback, accumulate=2)
    agree(callback.estimate(), by_hand(module, found, case.count))
    used = [sum(map(case.count, found[at : at + 2])) for at in range(0, len(found), 2)]
    assert callback.state_dict()["session"]["tallies"][""]["sizes"] == used
    lines = capsys.readouterr().out.splitlines()
    advice = lines[0]
    at = next(i for i, line in enumerate(lines) if "noise scale: b_simple" in line)
    value, costs = lines[at : at + 2]
    size = statistics.median_high(used)
    assert f"({case.unit}" in value and f"batch size {size} " in costs
    assert f"our batch size of {size} " in advice


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_the_function_another_thing_is_counted(case):
    """So the tests above do not pass by chance, and a reader sees what the function is for."""
    module, found, callback = case.model(), batches(case), GradientNoiseScale()
    fit(module, listed(found), callback, accumulate=2)
    agree(callback.estimate(), by_hand(module, found, case.default))
    assert callback.estimate().noise != pytest.approx(
        by_hand(module, found, case.count).noise, rel=0.05
    )


def test_single_sequences_counted_in_tokens():
    """The examples probe knows how many tokens a batch has, not whose they are: sequences are
    alike, of the mean length.
    """
    module, found = Padded(), batches(CASES[0])
    callback = GradientNoiseScale(probe=Examples(exact=True), batch_size_fn=count_tokens)
    fit(module, listed(found), callback, accumulate=1)
    moments = []
    for inputs, targets in found:
        total, number = count_tokens((inputs, targets)), len(inputs)
        losses = [
            token_losses(module.head(module.table(x[None]).cumsum(dim=1)), y[None]).sum()
            for x, y in zip(inputs, targets, strict=True)
        ]
        grads = [gradient(module, loss) / total for loss in losses]
        mean = sum(grads)
        moments.append(
            from_contributions(
                [float(g @ g) for g in grads],
                [1 / number] * number,
                [total / number] * number,
                float(mean @ mean),
            )
        )
    agree(callback.estimate(), estimate_noise_scale(moments, decay=0.99))


@pytest.mark.parametrize(
    ("case", "counted"),
    [(CASES[1], False), (CASES[2], False), (CASES[2], True), (CASES[3], False)],
    ids=lambda given: getattr(given, "name", given),
)
def test_layers_that_do_not_see_examples_along_dimension_0_are_refused(case, counted):
    """Nodes, time steps: their number is not that of the examples."""
    noise = {"batch_size_fn": case.count} if counted else {}
    callback = GradientNoiseScale(probe="examples", **noise)
    with pytest.raises(
        MisconfigurationException,
        match=r"needs two groups|cover|mixes the examples|no layer has",
    ):
        fit(case.model(), listed(batches(case)), callback, accumulate=1)


def one_graph(batch, which):
    """The graph of that number as a batch of its own."""
    nodes = (batch.graph == which).nonzero()[:, 0]
    inside = (batch.graph[batch.edges[0]] == which).nonzero()[:, 0]
    edges = batch.edges[:, inside] - nodes[0]
    graph = torch.zeros(len(nodes), dtype=torch.long)
    return Graphs(batch.nodes[nodes], edges, graph, batch.targets[which : which + 1])


def one_series(batch, which):
    series, targets = batch
    return series[:, which : which + 1], targets[which : which + 1]


@pytest.mark.parametrize(
    ("case", "alone"), [(CASES[1], one_graph), (CASES[3], one_series)], ids=["graphs", "time-major"]
)
def test_examples_in_other_places_are_those_of_a_loop(case, alone):
    """Nodes follow their graphs, and nn.RNN has time first: q_small is the mean of |g|²."""
    number = 5
    batch = next(found for found in batches(case) if case.count(found) == number)
    module = case.model()
    noise = GradientNoiseScale(probe=Examples(exact=True), batch_size_fn=case.count)
    fit(module, listed([batch] * 3), noise, accumulate=1)
    squares = []
    for which in range(number):
        module.zero_grad()
        module.loss(alone(batch, which)).backward()
        squares.append(sum(float(p.grad.square().sum()) for p in module.parameters()))
    estimate = noise.estimate()
    assert estimate.steps >= 2
    # E|g|² of one example is |G|² + tr(Σ)
    assert estimate.signal + estimate.noise == pytest.approx(sum(squares) / number, rel=1e-9)


def test_a_packed_sequence_really_holds_what_is_counted():
    batch = batches(CASES[2])[0]
    _, lengths = pad_packed_sequence(batch)
    assert isinstance(batch, PackedSequence) and number_of_time_steps(batch) == int(lengths.sum())
