"""The critical batch size by branches, on a noisy quadratic with closed form."""

import csv
import re

import lightning as L
import pytest
import torch
from scipy.optimize import brentq

from lightning_noise.__main__ import main
from lightning_noise.study import TrialError, branched_check
from testing import noisy_branches as model

FACTORS = (1, 2, 4, 8, 16)
EXAMPLES = 8 * 16 * 12


def check(path, **changes):
    arguments = {
        "make_module": model.make_module,
        "make_data": model.make_data,
        "global_size": 8,
        "examples": EXAMPLES,
        "noise_scale": False,
        "learning_rate": "sqrt",
    }
    return branched_check(path, **{**arguments, **changes})


def small(path, **changes):
    """Two branches of two seeds, with few steps."""
    return check(path, **{"factors": (1, 2), "seeds": 2, "examples": 160, **changes})


def values_in(path, column="value"):
    with path.open() as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def square_of(path):
    weights = torch.load(path, weights_only=False)["state_dict"]["weights"]
    return float(weights.square().sum())


def expected_worse(factor, square, examples=EXAMPLES):
    """Of the rule "sqrt", relative to the branch at factor 1."""

    def end(k):
        return model.expected_loss(square, examples / (8 * k), model.RATE * k**0.5, 8 * k)

    return end(factor) - end(1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return model.saved(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def found(path):
    return check(path, seeds=6, noise_scale={"max_examples": 6144, "relative_error": 0.1})


# ---- against the closed form -------------------------------------------------------------------


def test_differences_are_those_of_the_closed_form(path, found):
    """Within 5 standard errors of six seeds: by Student's t they exceed it once in 480."""
    square = square_of(path)
    assert [row.global_size for row in found.rows] == [8 * k for k in FACTORS]
    for k, row in zip(FACTORS[1:], found.rows[1:], strict=True):
        assert abs(row.worse - expected_worse(k, square)) < 5 * row.error
        assert row.error < 0.1 * found.tolerance


def test_the_default_tolerance_is_a_tenth_of_the_progress(path, found):
    square = square_of(path)
    end = model.expected_loss(square, EXAMPLES / 8, model.RATE, 8)
    assert found.start == pytest.approx(square / 2)
    assert abs(found.gain.value - (square / 2 - end)) < 5 * found.gain.error
    assert found.tolerance == pytest.approx(found.gain.value / 10)


@pytest.mark.parametrize("tolerance", [None, 0.2, 0.05])
def test_the_bracket_holds_the_critical_batch_size(path, found, tolerance):
    square = square_of(path)
    judged = found if tolerance is None else found.with_tolerance(tolerance)
    crossing = brentq(lambda k: expected_worse(k, square) - judged.tolerance, 1, 16)
    assert judged.low < 8 * crossing < judged.high <= 4 * judged.low
    assert judged.critical == pytest.approx(8 * crossing, rel=0.1)


def test_noise_scale_at_the_checkpoint_is_that_of_its_weights(path, found):
    expected = model.DIMENSIONS * model.VARIANCE / square_of(path)
    assert found.noise_scale.low < expected < found.noise_scale.high
    assert list(found.noise_scales) == ["euclidean"]


def test_every_factor_trains_on_the_same_examples(found):
    assert {run.examples for run in found.runs} == {run.seen for run in found.runs} == {EXAMPLES}
    assert [run.steps for run in found.runs[:5]] == [192, 96, 48, 24, 12]
    assert found.warnings == ()


def test_the_same_check_again_gives_the_same_runs(path):
    assert small(path).runs == small(path).runs


class Data(L.LightningDataModule):
    def __init__(self, global_size, seed):
        super().__init__()
        self.arguments = (global_size, seed)

    def setup(self, stage):
        self.train, self.val = model.make_data(*self.arguments)

    def train_dataloader(self):
        return self.train

    def val_dataloader(self):
        return self.val


def test_a_data_module_gives_the_same_and_the_random_state_stays(path):
    noise = {"max_examples": 800, "relative_error": 0.5}
    before = torch.get_rng_state()
    of_module = small(path, make_data=Data, noise_scale=noise)
    assert torch.equal(torch.get_rng_state(), before)
    of_loaders = small(path, noise_scale=noise)
    assert of_module.runs == of_loaders.runs
    assert of_module.noise_scales == of_loaders.noise_scales


# ---- what a branch begins with -----------------------------------------------------------------

OPTIMIZERS = {
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "a rate in a tensor": lambda p, lr: torch.optim.Adam(p, lr=torch.tensor(lr)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_branch_at_factor_1_goes_on_as_the_run_does(tmp_path, name):
    """Also the second seed's, whose optimizer must not have been moved by the first one's."""
    make = OPTIMIZERS[name]
    whole = model.Quadratic(optimizer=make)
    path = model.saved(tmp_path, model.Quadratic(optimizer=make), steps=20)
    found = small(
        path,
        make_module=lambda parameters: model.Quadratic(optimizer=make, **parameters),
        make_data=model.without_noise,
    )
    model.trained(whole, 40)
    ends = [run.value for run in found.runs if run.factor == 1]
    assert ends == pytest.approx(2 * [float(whole.weights.detach().square().sum() / 2)], rel=1e-9)
    assert any("no noise" in text for text in found.warnings)


def test_the_rate_is_held_at_that_of_the_checkpoint(tmp_path):
    """The run's schedule has brought it down to 0.02 · 0.9^10; nine tenths more each step."""
    path = model.saved(tmp_path, model.Quadratic(decay=0.9), steps=10)
    found = small(
        path,
        make_module=lambda parameters: model.Quadratic(decay=0.9, **parameters),
        make_data=model.without_noise,
        learning_rate=lambda k: 3 * k,
    )
    for run in found.runs:
        rate = 0.02 * 0.9**10 * 3 * run.factor
        end = model.expected_loss(square_of(path), run.steps, rate, run.global_size, variance=0)
        assert (run.learning_rate, run.value) == pytest.approx((rate, end), rel=1e-9)


@pytest.mark.parametrize(
    ("rule", "optimizer", "factor", "text"),
    [
        ("auto", torch.optim.SGD, 2, "times k, as SGD is an optimizer of the SGD kind"),
        ("auto", torch.optim.Adam, 2**0.5, "times the root of k, as Adam is"),
        ("linear", torch.optim.Adam, 2, "times k"),
        ("sqrt", torch.optim.SGD, 2**0.5, "times the root of k"),
        (None, torch.optim.SGD, 1, "unchanged"),
    ],
)
def test_rules_of_the_rate(tmp_path, rule, optimizer, factor, text):
    path = model.saved(tmp_path, model.Quadratic(optimizer=optimizer))
    found = small(
        path,
        learning_rate=rule,
        make_module=lambda parameters: model.Quadratic(optimizer=optimizer, **parameters),
    )
    rates = [run.learning_rate for run in found.runs[:2]]
    assert rates == pytest.approx([model.RATE, factor * model.RATE])
    assert text in found.summary().splitlines()[0]


# ---- what is said ------------------------------------------------------------------------------


def test_the_summary(found):
    said = found.with_tolerance(0.2).summary().splitlines()
    assert said[0] == (
        "6 branches at each batch size, 1536 examples each; learning rate held, times the root of k"
    )
    assert said[2] == "  tolerance 0.2"
    assert said[3] == "         8 examples per step, 192 steps: the reference"
    endings = [line.rsplit(", ", 1)[1] for line in said[4:8]]
    assert endings == ["fine", "fine", "too large", "too large"]
    assert said[8].startswith("critical batch size here: 32 to 64 examples, ")
    assert said[9].startswith("b_simple at the checkpoint: ")
    assert len(said) == 10


def test_the_branches_as_csv(found, tmp_path):
    found.to_csv(tmp_path / "a.csv")
    assert values_in(tmp_path / "a.csv") == [run.value for run in found.runs]
    assert values_in(tmp_path / "a.csv", "global_size")[:5] == [8 * k for k in FACTORS]


def test_a_branch_that_diverges_is_too_large(path, tmp_path):
    found = small(path, learning_rate=lambda k: 1e200 if k == 2 else 1)
    assert found.rows[1].diverged == 2
    assert (found.low, found.high, found.critical) == (8, 16, None)
    assert "too large, 2 of 2 diverged" in found.summary()
    found.figure(tmp_path / "a.png")


def test_a_reference_that_diverges_is_an_error(path):
    with pytest.raises(TrialError, match=r"^Give a smaller factor too.*the reference \(8\)"):
        small(path, learning_rate=lambda k: 1e200)


def test_a_smaller_factor_shows_that_the_run_is_above_its_critical_size(path):
    """At 32 per step, whose branch from here is the one at factor 4 above."""
    found = check(
        path,
        factors=(0.25, 1),
        seeds=5,
        global_size=32,
        examples=384,
        learning_rate=lambda k: 2 * k**0.5,
    )
    square = square_of(path)
    assert [row.global_size for row in found.rows] == [8, 32]
    worse = found.rows[1].worse
    assert abs(worse - expected_worse(4, square, 384)) < 5 * found.rows[1].error
    assert found.with_tolerance(worse / 3).high == 32


def test_metrics_to_be_maximised(path):
    """The same branches, of which the negative of the loss is read."""
    smaller = small(path)
    larger = small(path, make_module=Negative, metric="score", mode="max")
    assert [run.worse for run in larger.runs] == pytest.approx([run.worse for run in smaller.runs])
    assert larger.gain.value == pytest.approx(smaller.gain.value)


class Negative(model.Quadratic):
    def __init__(self, parameters):
        super().__init__(**parameters)

    def validation_step(self, batch, batch_idx):
        self.log("score", -self.weights.square().sum() / 2)


def test_without_progress_nothing_is_decided(path):
    """At a rate of 1.4 the noise brings the loss from 4.8 to about 5.8."""
    found = small(path, learning_rate=lambda k: 70)
    assert (found.tolerance, found.low, found.critical, found.high) == (None,) * 4
    assert "nothing is decided, because what the reference gained" in found.summary()
    assert found.with_tolerance(100.0).low == 16


def uneven(global_size, seed):
    """Batches of 8 whatever is asked for."""
    return model.make_data(8, seed)


def test_batches_of_another_size_are_reported(path):
    said = small(path, make_data=uneven).warnings
    assert any("saw different numbers of examples" in text and "80 to 160" in text for text in said)


def test_few_steps_and_open_ends_are_reported(path):
    said = " ".join(small(path, examples=16, tolerance=1e-3).warnings)
    assert "the branches at 16 take only 1 step" in said
    said = " ".join(small(path, tolerance=1.0).warnings)
    assert "no upper bound" in said


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"factors": (1,)}, ValueError, r"factors must hold two or more .* got \(1,\)"),
        ({"factors": (2, 4)}, ValueError, r"factors must hold 1, .* got \(2, 4\)"),
        ({"factors": (1, "a")}, TypeError, r"factors must .* got \(1, 'a'\)"),
        ({"factors": (1, 1.3)}, ValueError, r"times global_size \(8\) must be an integer.* 1.3"),
        ({"examples": 150}, ValueError, r"of every batch size \[8, 16\], .* got 150. Take 144"),
        ({"examples": 0}, ValueError, "examples must be an int >= 1, got 0"),
        ({"global_size": 8.0}, TypeError, r"global_size must be an int >= 1, got 8\.0"),
        ({"seeds": 1}, ValueError, "seeds must be an int >= 2, got 1"),
        ({"learning_rate": "root"}, ValueError, "learning_rate must be one of .* got 'root'"),
        ({"learning_rate": 2.0}, TypeError, r"learning_rate must be one of .* got 2\.0"),
        ({"tolerance": 0.0}, ValueError, r"tolerance must be a finite number > 0, got 0\.0"),
        ({"mode": "best"}, ValueError, "mode must be one of .* got 'best'"),
        ({"noise_scale": "yes"}, TypeError, "noise_scale must be True, False or .* got 'yes'"),
        ({"workers": 2}, TypeError, "workers must be a Workers, .* got 2"),
        ({"make_data": 1}, TypeError, "make_data must be a function"),
        ({"metric": "loss"}, ValueError, r"Log it in validation_step .*'loss' .* \['val_loss'\]"),
    ],
)
def test_wrong_arguments_are_refused(path, changes, error, message):
    with pytest.raises(error, match=message):
        small(path, **changes)


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        small(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"^Consolidate it into one file"):
        small(tmp_path)
    torch.save({"weights": 1}, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"one of Lightning's.*Save it with trainer\.save"):
        small(tmp_path / "own.ckpt")
    path = model.saved(tmp_path, weights_only=True)
    with pytest.raises(ValueError, match=r"^Save it with .*save_weights_only=False"):
        small(path)


class Wider(model.Quadratic):
    def __init__(self, parameters):
        super().__init__(**parameters)
        self.more = torch.nn.Parameter(torch.zeros(3))


class Stop(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 3


class Manual(model.Quadratic):
    def __init__(self, parameters):
        super().__init__(**parameters)
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"make_module": Wider}, ValueError, "the checkpoint was saved from, got Wider"),
        ({"make_module": Manual}, TrialError, "at global size 8 with seed 0 .* got Manual"),
        ({"make_module": dict}, TypeError, "must give a LightningModule"),
        ({"make_data": lambda *_: 3}, ValueError, "make_data must give a pair .* got int"),
        ({"learning_rate": lambda k: -k}, TrialError, r"for k = 1 it returned -1\.0"),
        ({"trainer_options": {"limit_train_batches": 0}}, TrialError, "no batch of 8 examples"),
        (
            {"trainer_options": {"callbacks": [Stop()]}},
            TrialError,
            r"its 20 optimizer steps, got 3\.",
        ),
        ({"noise_scale": {"geometry": "round"}}, TrialError, "^Leave the noise scale out with"),
    ],
)
def test_what_cannot_be_trained_is_refused(path, changes, error, message):
    with pytest.raises(error, match=message):
        small(path, **changes)


# ---- in a file, and in worker processes --------------------------------------------------------

FILE = """
from lightning_noise.study import Workers, branched_check
from testing import noisy_branches as model

def make_data(global_size, seed):
    return model.make_data(global_size, seed)

def branch(checkpoint):
    return branched_check(
        checkpoint, model.make_module, make_data, factors=(1, 2), seeds=2, examples=160,
        global_size=8, noise_scale=False, learning_rate="sqrt", workers=Workers(count=WORKERS),
    )
"""


def command(folder, path, monkeypatch, *options, workers=0, text=FILE):
    monkeypatch.chdir(folder)
    (folder / "mine.py").write_text(text.replace("WORKERS", str(workers)))
    return main(["branch", "mine.py", "--checkpoint", str(path), *options])


def test_the_command(path, tmp_path, monkeypatch, capsys):
    options = ("--tolerance", "0.5", "--figure", "a.png")
    assert command(tmp_path, path, monkeypatch, *options) == 0
    said = capsys.readouterr().out
    assert "  tolerance 0.5\n" in said
    assert said.endswith("table: mine_branches.csv\nfigure: a.png\n")
    assert (tmp_path / "a.png").exists()
    assert values_in(tmp_path / "mine_branches.csv") == [run.value for run in small(path).runs]


@pytest.mark.slow
def test_worker_processes_give_the_same_branches(path, tmp_path, monkeypatch):
    assert command(tmp_path, path, monkeypatch, workers=1) == 0
    assert values_in(tmp_path / "mine_branches.csv") == [run.value for run in small(path).runs]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"must define branch\(checkpoint\), .* got None"),
        ("def branch(checkpoint): pass", "but it returned None"),
    ],
)
def test_files_without_a_check_are_refused(path, tmp_path, monkeypatch, capsys, text, message):
    assert command(tmp_path, path, monkeypatch, text=text) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_checkpoint_that_does_not_exist_is_refused(tmp_path, monkeypatch, capsys):
    assert command(tmp_path, tmp_path / "none.ckpt", monkeypatch) == 2
    assert "there is no file" in capsys.readouterr().err
