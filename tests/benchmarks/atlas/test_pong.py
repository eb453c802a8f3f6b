"""Pong: frames of the emulator, a loss of single frames, and rows of a made-up run."""

import sys

import pytest
import torch

from benchmarks.atlas import findings_pong as findings
from benchmarks.atlas import pong
from benchmarks.atlas.pong import PONG, Convolutions, Played
from benchmarks.atlas.rollouts import Rollouts
from lightning_noise import Moments

needs_pong = pytest.mark.skipif(bool(pong.missing()), reason=pong.missing())


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Convolutions(1e-3)


@needs_pong
def test_frames_follow_each_other_across_batches(module):
    """Each observation is the one before, three of its four frames moved by one."""
    data = Rollouts(PONG, 2 * PONG.segment, 1)
    data.follow(module, 1)
    batches = iter(data.loader())
    seen = [next(batches).observations.view(2, PONG.segment, 4, 84, 84) for _ in range(2)]
    path = torch.cat(seen, dim=1)
    assert path.dtype == torch.uint8
    assert torch.equal(path[:, :-1, 1:], path[:, 1:, :-1])
    assert not torch.equal(path[:, 0, -1], path[:, -1, -1])


@needs_pong
def test_pong_follows_the_seed(module):
    first, again, other = (Rollouts(PONG, 64, seed) for seed in (1, 1, 2))
    for data in (first, again, other):
        data.follow(module, 1)
    frames = [data[0] for data in (first, again, other)]
    assert all(map(torch.equal, frames[0], frames[1]))
    assert not torch.equal(frames[0].observations, frames[2].observations)


@needs_pong
def test_a_game_without_moving_is_lost_by_21_points(module):
    """The score is that of a whole game; the frame after its end is spent on the restart."""
    with torch.no_grad():
        module.policy.weight.zero_()
        module.policy.bias.copy_(torch.tensor([50.0, 0, 0, 0, 0, 0]))
    data = Rollouts(PONG, PONG.segment, 1)
    data.follow(module, 1)
    batches = iter(data.loader())
    alive = []
    while not data.episodes:
        alive += next(batches).alive.tolist()
        assert len(alive) < 3000
    alive += next(batches).alive.tolist()
    assert data.mean_return == -21.0
    assert alive.count(0.0) == 1


def test_the_gradient_of_a_batch_is_the_mean_over_its_frames(module):
    generator = torch.Generator().manual_seed(0)
    observations = torch.randint(256, (3, 4, 84, 84), generator=generator, dtype=torch.uint8)
    batch = (observations, torch.tensor([0, 3, 5]), torch.tensor([1.0, -1.0, 0.5]), torch.ones(3))
    module.training_step(batch, 0).backward()
    whole = [parameter.grad.clone() for parameter in module.parameters()]
    single = [torch.zeros_like(one) for one in whole]
    for frame in range(3):
        module.zero_grad()
        module.training_step(tuple(part[frame : frame + 1] for part in batch), 0).backward()
        for sum_, parameter in zip(single, module.parameters(), strict=True):
            sum_ += parameter.grad / 3
    for one, other in zip(whole, single, strict=True):
        torch.testing.assert_close(one, other)


def test_a_missing_ale_py_is_named_with_its_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert pong.missing() == (
        "Pong comes with ale-py. Run pip install -e '.[atlas]' in the repository."
    )


# ---- rows ---------------------------------------------------------------------------------------


def options_of(steps, bin_):
    """A run of 1024 frames a step."""
    return findings.Options(global_size=1024, steps=steps, bin=bin_)


def made_up(seeds=3, steps=40):
    """|G|² = 1 and tr(Σ) = 200 in the first fifth, then 800, each with scatter of 20 %."""
    options = options_of(steps, 8)
    source = torch.Generator().manual_seed(0)
    rows = []
    for seed in range(seeds):
        moments = {}
        for step in range(steps):
            signal, noise = 1 + 0.2 * torch.randn(2, generator=source)
            trace = (200 if step < steps // 5 else 800) * float(noise)
            q_big, q_small = float(signal) + trace / 256, float(signal) + trace / 32
            moments[step] = Moments(q_small, q_big, 1 / 32, 1 / 256)
        scores = [None if step < 8 else step / 10 - 21 for step in range(steps)]
        losses = [0.1 * step for step in range(steps)]
        rows += findings.rows_of(Played(losses, moments, scores), seed, options)
    return rows


def test_every_bin_has_its_b_simple_score_and_loss():
    """B_simple within four standard errors, which is the width of its interval."""
    rows = made_up()
    found = findings.by_bin(rows)
    assert list(found) == [8, 16, 24, 32, 40]
    for (last, mine), truth in zip(found.items(), (200, 800, 800, 800, 800), strict=True):
        one = findings.interval_of(findings.pooled(mine))
        assert abs(one.value - truth) < one.high - one.low < 0.4 * truth, last
    lines = findings.bins_table(rows).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [line[0] for line in cells] == ["8 192", "16 384", "24 576", "32 768", "40 960"]
    assert [line[2] for line in cells] == ["–", "-19.5", "-18.7", "-17.9", "-17.1"]
    assert [line[3] for line in cells] == ["0.350", "1.150", "1.950", "2.750", "3.550"]


def test_the_first_fifth_is_apart_from_the_other_steps():
    """Over all steps tr(Σ) is 680 and |G|² is 1."""
    found = {name: findings.interval_of(one) for name, one in findings.parts_of(made_up()).items()}
    for name, truth in {"first fifth": 200, "other steps": 800, "all steps": 680}.items():
        assert found[name].low < truth < found[name].high < 1.3 * found[name].low


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """|G|² of ten steps scatters by its own size; within four standard errors of 400 draws."""
    source = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(400):
        signal = 1 + torch.randn(10, generator=source, dtype=torch.float64)
        noise = 200 * (1 + 0.05 * torch.randn(10, generator=source, dtype=torch.float64))
        moments = {}
        for step, (one, trace) in enumerate(zip(signal.tolist(), noise.tolist(), strict=True)):
            moments[step] = Moments(one + trace / 32, one + trace / 256, 1 / 32, 1 / 256)
        row = findings.rows_of(Played([0.0] * 10, moments, [None] * 10), 0, options_of(10, 10))[0]
        found = findings.interval_of(findings.pooled([row]))
        held += found.low < 200 < found.high
    assert abs(held / 400 - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


def test_tables_beside_the_paper():
    lines = findings.table(made_up()).splitlines()
    assert lines[2].endswith("| at the start: 100–1 000 |")
    assert lines[3].startswith("| other steps | 8") and lines[3].endswith("| – |")
    assert lines[4].endswith("| average: 1 000–20 000 |")


def test_a_gradient_that_is_not_resolved_bounds_the_noise_scale_from_below():
    """|G|² of a bin of 24 steps is 0 ± 0.21, so that B_simple is at least 200/0.42."""
    rows = [row._replace(signal=0.0) for row in made_up() if row.last_step == 8]
    one = findings.interval_of(findings.pooled(rows))
    assert one.value == one.high == float("inf")
    assert 300 < one.low < 700
    assert f"| 8 192 | at least {one.low:.3g} | – |" in findings.bins_table(rows)


def test_tables_without_rows_have_no_lines():
    assert findings.table([]).count("\n") == findings.bins_table([]).count("\n") == 1


@pytest.mark.parametrize("scored", [False, True])
def test_the_figure_is_drawn(tmp_path, scored):
    rows = made_up()
    if not scored:
        rows = [row._replace(score=None) for row in rows]
    findings.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_seed_that_has_been_run_is_not_run_again(monkeypatch):
    played = []
    monkeypatch.setattr(findings, "play", lambda *arguments: played.append(arguments[-1]))
    monkeypatch.setattr(findings, "rows_of", lambda *_: [])
    list(findings.measure(findings.Options(), {(1001,): []}))
    assert played == [1002]


def test_a_mean_score_is_over_the_seeds_that_have_one():
    rows = made_up()[:2]
    assert findings.mean_score(rows) == pytest.approx(-19.5)
    assert findings.mean_score(rows[:1]) is None
