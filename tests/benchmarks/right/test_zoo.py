"""The model zoo: ten of its models, that a wrong number or a changed gradient shows, and that the
page is the one that its program makes of the file.
"""

import math

import pytest
import torch
from torch import nn

from benchmarks.harness.rows import File
from benchmarks.right.zoo import fit, summary, tables, tasks, worker, zoo
from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.measure import RandomnessError, measure
from benchmarks.right.zoo.models.catalogue import BY_KEY, ENTRIES, key
from lightning_noise import GradientNoiseScale

ALWAYS = (
    "torch/MLP with LayerNorm",
    "torch/CNN with GroupNorm",
    "torch/PointNet with GroupNorm",
    "torch/variational autoencoder",
    "torch/Siamese network, triplets",
)
NEVER = (  # their examples have no gradients of their own
    "torch/CNN with BatchNorm",
    "torch/two towers, in-batch InfoNCE",
)
PERHAPS = (  # as far as the probe covers their layers
    "torch/LSTM language model",
    "torch/nn.TransformerEncoder classifier",
    "torch/convolutional autoencoder",
)


@pytest.fixture(scope="module")
def rows():
    return {name: measure(BY_KEY[name]) for name in (*ALWAYS, *NEVER, *PERHAPS)}


def holds(row):
    """What is measured of single examples is right, and nothing is changed by it."""
    assert row.oracle == "" and row.precision == 64
    assert row.exact_small < 1e-10 and row.exact_big < 1e-10
    assert row.standard_errors < 4 and row.q_big < 1e-6
    assert row.identical == "yes"


@pytest.mark.slow
@pytest.mark.parametrize("name", ALWAYS)
def test_a_model_of_known_layers_is_measured_and_exact(rows, name):
    row = rows[name]
    assert row.measured and row.left_out == ""
    assert row.share_parameters == row.share_grad_sq == 1
    holds(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEVER)
def test_a_model_that_ties_its_examples_is_refused(rows, name):
    row = rows[name]
    # BatchNorm is known before training; a loss shows only in a step, and training goes on
    assert row.outcome == ("refused" if row.batch_norm else "not measured")
    assert row.oracle and "examples" in row.reason
    assert ("BatchNorm" in row.reason) == row.batch_norm


@pytest.mark.slow
@pytest.mark.parametrize("name", PERHAPS)
def test_another_model_is_measured_right_or_refused_with_what_is_left_out(rows, name):
    row = rows[name]
    if row.measured:
        holds(row)
        assert row.share_grad_sq > 0.9
    else:
        assert row.reason and row.left_out and row.share_grad_sq < 1
        assert row.exact_small < 1e-10  # of the part that is covered


@pytest.mark.slow
@pytest.mark.parametrize("name", (*ALWAYS, *NEVER, *PERHAPS))
def test_every_model_is_measured_with_two_micro_batches(rows, name):
    row = rows[name]
    assert row.split_outcome == "measured" and row.split_identical == "yes"
    assert row.split_small < 1e-6 and row.split_big < 1e-6


# ---- what is wrong shows ------------------------------------------------------------------------


def test_a_wrong_norm_shows(monkeypatch):
    take = fit.Recorder._take

    def wrong(self, reading):
        moments = reading.moments
        take(self, reading._replace(moments=moments._replace(q_small=1.01 * moments.q_small)))

    monkeypatch.setattr(fit.Recorder, "_take", wrong)
    row = measure(BY_KEY["torch/MLP with LayerNorm"])
    assert row.exact_small == pytest.approx(0.01)
    assert row.sketched == pytest.approx(0.01, rel=1e-3) and row.standard_errors > 4
    assert row.split_small == pytest.approx(0.01, rel=1e-3)


def test_a_changed_gradient_shows(monkeypatch):
    after = GradientNoiseScale.on_after_backward

    def changing(self, trainer, module, *rest):
        after(self, trainer, module, *rest)
        parameter = next(module.parameters())
        parameter.grad[0] = torch.nextafter(parameter.grad[0], parameter.grad[0] + 1)

    monkeypatch.setattr(GradientNoiseScale, "on_after_backward", changing)
    row = measure(BY_KEY["torch/MLP with LayerNorm"])
    assert (row.identical, row.split_identical) == ("no", "no")


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, tasks.CLASSES)

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


def entry(build, loss=tasks.classify):
    return Entry("for a test", "torch", build, tasks.numbers(12), loss)


def test_a_model_that_draws_random_numbers_is_no_row():
    with pytest.raises(RandomnessError):
        measure(entry(Noisy))


def test_a_loss_that_sums_is_no_oracle():
    def summed(model, batch):
        return len(batch[0]) * tasks.classify(model, batch)

    row = measure(entry(lambda: nn.Linear(12, tasks.CLASSES), summed))
    assert row.oracle.startswith("the examples' gradients do not add up")


def test_a_model_that_fails_is_a_row():
    def broken():
        raise ImportError("no such package")

    row = worker.measured(entry(broken))
    assert (row.outcome, row.code) == ("failed", "error")
    assert row.reason == "ImportError: no such package"


@pytest.mark.slow
def test_a_crash_and_an_endless_loop_are_rows(monkeypatch):
    known, unknown = "torch/MLP with LayerNorm", "torch/unknown to the process"
    (endless,) = worker.all_rows([known], limit=0.0)
    assert (endless.outcome, endless.code) == ("failed", "timeout")
    monkeypatch.setitem(worker.BY_KEY, unknown, BY_KEY[known])
    (crashed,) = worker.all_rows([unknown], limit=300.0)
    assert (crashed.outcome, crashed.code) == ("failed", "crash")
    assert crashed.reason == "the process ended with status 1"


# ---- the file and the page ----------------------------------------------------------------------


def test_names_are_unique():
    assert len(BY_KEY) == len(ENTRIES) >= 60


@pytest.fixture(scope="module")
def kept():
    return File(zoo.BENCHMARK, zoo.BENCHMARK.path).rows


def test_the_file_has_every_model_and_is_written_as_it_is_read(kept, tmp_path):
    assert [key(row) for row in kept] == list(BY_KEY), "run python -m benchmarks run zoo"
    File(zoo.BENCHMARK, tmp_path / "zoo.csv").add(kept)
    assert (tmp_path / "zoo.csv").read_bytes() == zoo.BENCHMARK.path.read_bytes()


def test_the_page_counts_what_the_file_says(kept):
    alone = sum(row.outcome == "measured" for row in kept)
    assert f"| measured with nothing changed | {alone} (" in summary.summary(kept)
    for table in (tables.single_table(kept), tables.split_table(kept)):
        for row in kept:
            assert f"| {row.name} | {row.package} |" in table


def test_no_number_of_the_file_is_off(kept):
    for row in kept:
        exact = (row.exact_small, row.exact_big, row.q_big, row.split_small, row.split_big)
        assert not any(found > 1e-4 for found in exact), row  # NaN where nothing was measured
        assert math.isnan(row.sketched) or row.standard_errors < 4, row
        assert row.identical != "no" and row.split_identical != "no", row
