"""Every Python block of README.md and docs/ runs as printed; the blocks of a page share names."""

import inspect
import re
from typing import NamedTuple

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import Decision, GradientNoiseScale, Key, NoiseEstimate
from lightning_noise.core.moments import from_contributions
from lightning_noise.probes.examples import registry
from testing import toys
from testing.contract import holds
from testing.launch import ROOT

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# (page, first line of the block) → the reason why it cannot run. Every other block runs.
EXTENDING = "docs/extending.md"
LOOPS = "docs/other_loops.md"
CALLBACK = ROOT / "docs" / "callback.md"
CANNOT_RUN: dict[tuple[str, str], str] = {}


class Block(NamedTuple):
    """A block of Python. ``line`` counts the lines of the page before it."""

    page: str
    line: int
    code: str

    @property
    def key(self):
        return self.page, self.code.splitlines()[0]


def blocks(path):
    text = path.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    page = str(path.relative_to(ROOT))
    return [Block(page, text[: match.start(1)].count("\n"), match[1]) for match in found]


BLOCKS = [block for path in FILES for block in blocks(path)]


# ---- names that a page speaks of and leaves to its reader ------------------------------------


class Model(toys.Regression):
    def __init__(self, learning_rate=0.05):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=learning_rate))

    def forward(self, x):
        return self.net(x)


class MyDDPStrategy(DDPStrategy):
    pass


def readme():
    return {"model": Model(), "data": toys.data()}


def several_devices():
    return {"MyDDPStrategy": MyDDPStrategy}


def other_loops():
    model, data = Model(), toys.data()
    batches = list(data)
    fabric, other = Fabric(accelerator="cpu", devices=1), Model()
    fabric_model, fabric_optimizer = fabric.setup(
        other, torch.optim.SGD(other.parameters(), lr=0.05)
    )
    return {
        "fabric": fabric,
        "fabric_model": fabric_model,
        "fabric_optimizer": fabric_optimizer,
        "model": model,
        "local_sq": 2.0,  # of one of R ranks with b examples each
        "mean_sq": 1.5,
        "R": 2,
        "b": 16,
        "loss": nn.functional.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        "steps": 4,
        "K": 4,
        "micro_batches": lambda step: batches[4 * step : 4 * step + 4],
    }


class Words(Model):
    """Predicts the next of eleven words; 0 is padding."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))

    def loss(self, batch):
        inputs, targets = batch
        logits = self.net(inputs).transpose(1, 2)
        return nn.functional.cross_entropy(logits, targets, ignore_index=0)


def language_models():
    words = torch.randint(1, 11, (32, 8))
    targets = words.roll(-1, dims=1)
    targets[:, 5:] = 0
    return {"PAD": 0, "model": Words(), "data": DataLoader(TensorDataset(words, targets), 4)}


def adaptive():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {"model": model, "data": toys.data(), "optimizer": optimizer, "steps": 1000}


def geometries():
    return {"module": Model(), "loader": toys.data(examples=2048, local_size=16, shuffle=True)}


def train_loader(global_size, seed):
    order = torch.Generator().manual_seed(seed)
    data = toys.data(examples=512).dataset
    return DataLoader(data, global_size, shuffle=True, drop_last=True, generator=order)


def studies():
    return {"MyModule": Model, "train_loader": train_loader, "val_loader": toys.data}


NAMES = {
    "README.md": readme,
    "docs/adaptive.md": adaptive,
    "docs/geometries.md": geometries,
    "docs/language_models.md": language_models,
    "docs/other_loops.md": other_loops,
    "docs/several_devices.md": several_devices,
    "docs/split.md": adaptive,
    "docs/studies.md": studies,
}


# ---- running ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the blocks of a page in a folder of their own; their names with their values."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_rules", dict(registry._rules))
    # Lightning takes these for a Trainer that is not given the argument.
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "1")
    monkeypatch.setenv("PL_TRAINER_ACCELERATOR", "cpu")

    def page(name):
        names = {"__name__": name, **NAMES.get(name, dict)()}
        for block in BLOCKS:
            if block.page == name and block.key not in CANNOT_RUN:
                lines_above = "\n" * block.line  # so that a traceback shows the line of the page
                exec(compile(lines_above + block.code, str(ROOT / name), "exec"), names)
        return names

    return page


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_every_block_runs_as_printed(run, page):
    run(page)


def gone(listed):
    return sorted(set(listed) - {block.key for block in BLOCKS})


def test_a_block_that_is_listed_exists():
    assert gone(CANNOT_RUN) == []
    removed = ("README.md", "import tensorflow")
    assert gone({**CANNOT_RUN, removed: "needs another framework"}) == [removed]


def test_a_block_that_is_listed_does_not_run(run, monkeypatch):
    (block, *_) = (block for block in BLOCKS if block.page == "docs/geometries.md")
    assert "found" in run(block.page)
    monkeypatch.setitem(CANNOT_RUN, block.key, "listed")
    assert "found" not in run(block.page)


def test_a_name_that_nothing_defines_is_an_error(run, monkeypatch):
    monkeypatch.setitem(NAMES, "docs/geometries.md", dict)
    with pytest.raises(NameError, match="'module' is not defined"):
        run("docs/geometries.md")


# ---- what the blocks define and say ----------------------------------------------------------


def test_the_callback_of_the_page_counts_tokens(run):
    """32 sequences of five words and three of padding, 16 in a step."""
    noise = run("docs/language_models.md")["noise"]
    verdict = noise.verdict()
    assert (verdict.unit, verdict.global_size) == ("tokens", 16 * 5)


def test_the_program_of_the_first_page_finds_the_noise_scale_of_its_data(run):
    """A residual of e·x + 4·noise has the gradient 2e and tr(Σ) = 4 (|e|² (d + 1) + 16 d)."""
    names = run("docs/first_steps.md")
    estimate, error = names["noise"].estimate(), names["trainer"].model.layer.weight - 1
    e, d = float(error.detach().square().sum()), error.numel()
    at_the_end = (e * (d + 1) + 16 * d) / e
    assert estimate.steps == 400
    assert 0.5 * at_the_end < estimate.low < estimate.noise_scale < at_the_end  # it grows
    assert at_the_end < estimate.high


@pytest.mark.parametrize("shape", [(5, 3), (5, 7, 3)])
def test_the_rule_of_the_page_gives_the_gradients_of_single_examples(run, shape):
    scale = run("docs/single_device.md")["Scale"](3)
    x = torch.randn(shape)
    grad = 2 * scale(x).detach()  # of the sum of squares
    found = registry.find_rule(scale).contributions({}, (x,), grad)["gamma"]
    singles = [torch.autograd.grad(scale(one).square().sum(), scale.gamma)[0] for one in x]
    torch.testing.assert_close(found, torch.stack(singles))


def test_the_metric_of_the_page_is_given_the_part_of_one_rank(run):
    """Of two ranks with 16 examples each: half of |G|² = 2 · 1.5 − 2, tr(Σ) = 32 · (2 − 1.5)."""
    found = run(LOOPS)["metric"].compute()
    assert {name: float(value) for name, value in found.items()} == {"grad_sq": 0.5, "trace": 16.0}


def test_the_estimate_of_the_page_is_resolved(run):
    """The mean squared norms are 42.8/6 at 32 examples and 25/6 at 128."""
    names = run(LOOPS)
    found = names["estimate_noise_scale"](names["steps"])
    grad_sq = (128 * 25 - 32 * 42.8) / 6 / 96
    trace = (42.8 - 25) / 6 / (1 / 32 - 1 / 128)
    expected = (trace / grad_sq, grad_sq, trace)
    assert (found.noise_scale, found.signal, found.noise) == pytest.approx(expected)
    assert found.resolved


def test_the_policy_of_the_page_serves_as_one(run):
    policy = run("docs/adaptive.md")["Doubling"]()
    estimate = NoiseEstimate(None, None, None, 1.0, 1.0, False, 0, 0.0)
    assert policy(estimate, 32.0) == Decision(64, "grow: twice as large each epoch")
    assert GradientNoiseScale(adaptive_batch_size=policy).settings.adaptive.rule is policy


def test_the_schedule_of_the_page_advances_with_every_step(run):
    model = Model()
    model.configure_optimizers = run("docs/adaptive.md")["configure_optimizers"].__get__(model)
    toys.fit(model, toys.data(), accumulate=1)
    assert model.lr_schedulers().last_epoch == 16


def test_the_study_of_the_page_trains_and_logs_what_its_goals_read(run):
    names = run("docs/studies.md")
    train, val = names["make_data"](64, 0)
    module = names["make_module"]({"learning_rate": 0.1})
    fitted = toys.fit(module, train, val=val, accumulate=1)
    assert fitted.global_step == 8
    assert {goal.metric for goal in names["study"].goals} <= set(fitted.callback_metrics)


def test_the_fit_of_the_page_gives_the_numbers_beside_it(run):
    found = run("docs/studies.md")["found"]
    ends = (found.end_of_perfect_scaling(), found.overhead_size(0.2))
    assert [round(value) for value in (found.b_crit, found.low, found.high)] == [1000, 820, 1228]
    assert [round(value) for value in ends] == [105, 200]


def first_table(page):
    """The cells of the first table of a page, without its two head lines."""
    table = re.search(r"^\|.*?\n\n", page.read_text(), re.MULTILINE | re.DOTALL)[0]
    return [line.strip("|").split(" | ") for line in table.strip().splitlines()[2:]]


def test_the_table_of_the_page_lists_every_argument_with_its_default():
    listed = [[cell.strip(" `") for cell in row[:2]] for row in first_table(CALLBACK)]
    parameters = inspect.signature(GradientNoiseScale).parameters.values()
    defaults = {one.name: repr(one.default).replace("'", '"') for one in parameters}
    assert dict(listed) == defaults


SIZES, WEIGHTS = (3, 5, 2, 7, 4), (0.2, 0.5, 0.1, 0.3, 0.25)  # of the micro-batches of a step


def mean_square(layer, x):
    return layer(x).square().mean()


def moments_of_pairs(layer, batches):
    """The moments of a step whose groups are pairs, from one plain gradient per micro-batch."""
    total = sum(WEIGHTS[: len(batches)])
    weights = [weight / total for weight in WEIGHTS[: len(batches)]]
    parts = []
    for x, weight in zip(batches, weights, strict=True):
        (grad,) = torch.autograd.grad(mean_square(layer, x), layer.weight)
        parts.append(weight * grad)
    squares, shares, sizes = [], [], []
    for pair in (slice(i, i + 2) for i in range(0, len(batches), 2)):
        share = sum(weights[pair])
        noise = sum(w**2 / len(x) for w, x in zip(weights[pair], batches[pair], strict=True))
        squares.append(float(sum(parts[pair]).square().sum()))
        shares.append(share)
        sizes.append(share**2 / noise)
    return from_contributions(squares, shares, sizes, float(sum(parts).square().sum()))


@pytest.mark.parametrize("count", [4, 5])
def test_the_probe_of_the_page_compares_pairs(run, count):
    probe, layer = run(EXTENDING)["Pairs"](), nn.Linear(3, 1, bias=False, dtype=torch.float64)
    batches = [torch.randn(size, 3, dtype=torch.float64) for size in SIZES[:count]]
    with probe.attach({"weight": layer.weight}, {Key(): ["weight"]}):
        for x, weight in zip(batches, WEIGHTS, strict=False):
            probe.begin(len(x), weight)
            (weight * mean_square(layer, x)).backward()
            probe.end()
            torch.autograd.grad(mean_square(layer, x), layer.weight)  # none of the step's
        row = probe.row()
    expected = torch.tensor([moments_of_pairs(layer, batches)], dtype=torch.float64)
    torch.testing.assert_close(row, expected)
    assert not layer.weight._backward_hooks


def test_the_policy_of_extending_grows_to_half_of_the_lower_end(run):
    policy = run(EXTENDING)["half_the_lower_end"]
    seen = NoiseEstimate(400.0, 300.0, 600.0, 1.0, 400.0, True, 50, 40.0)
    assert policy(seen, 64.0) == Decision(150, "grow: b_simple is at least 300")
    assert policy(seen, 150.0) == Decision(150, "keep: b_simple may be as low as 300")
    young = seen._replace(n_eff=9.0)
    assert policy(young, 64.0) == Decision(64, "keep: too few steps are measured")


def test_the_probe_of_the_page_keeps_the_contract(run):
    pairs = run(EXTENDING)["Pairs"]
    holds(lambda module: pairs())
