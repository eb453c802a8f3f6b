"""Runs of set-ups, compared with what they should have measured."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from benchmarks.harness.lightning_runs import quiet_lightning
from benchmarks.right.setups.kinds import ByHand, Refused, Setup
from benchmarks.right.setups.refused import REFUSED, named, named_shards
from benchmarks.right.setups.supported import SUPPORTED
from lightning_noise import GradientNoiseScale
from lightning_noise.core.reasons import CannotMeasureError, Reason
from lightning_noise.hosts.lightning.refusals import REFUSALS
from lightning_noise.probes.examples import UnsupportedModelError
from testing.gans import by_hand, gan_data
from testing.reference import Errors, Recorder, Step, differences, errors, probes, skipped
from testing.toys import data, trainer


class Run(NamedTuple):
    """What one rank has seen of a run.

    Args:
        refusal: what it was refused with; "" where it ran.
        code: of the reason, or the name of the rule, that refused it.
        skipped: steps that were not used, by reason.
        probe: the one that was chosen.
        moments: measured, of the whole step.
        steps: what this rank trained on.
    """

    refusal: str
    probe: str = ""
    moments: tuple[Any, ...] = ()
    steps: tuple[Step, ...] = ()
    skipped: tuple[tuple[Reason, int], ...] = ()
    code: str = ""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without verdicts, advice and warnings."""
    other = logging.getLogger("pytorch_lightning")
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        with quiet_lightning(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                yield
    finally:
        other.setLevel(level)


def run(setup: Setup | Refused) -> Run:
    """One run on this rank."""
    torch.manual_seed(0)
    options = {"accumulate": 1, "epochs": 2, **setup.options()}
    loader = options.pop("loader", data)
    val = options.pop("val", None)
    callback = GradientNoiseScale(**setup.noise())
    recorder = Recorder(callback)
    others = [recorder, *setup.callbacks()] if isinstance(setup, Setup) else []
    try:
        loader = loader() if callable(loader) else loader
        trainer(callback, *others, **options).fit(setup.module(), loader, val() if val else None)
    except MisconfigurationException as error:
        rule = ""
        if isinstance(setup, Refused):
            rule = setup.rule
        return Run(str(error), code=code_of(error) or rule)
    if isinstance(setup, Refused):
        return Run("")
    left = tuple(skipped(callback).items())
    return Run("", probes(callback)[0], tuple(recorder.moments), tuple(recorder.steps), left)


def code_of(error: MisconfigurationException) -> str:
    """The code of the first reason that Lightning's error was made from; "" where it was a rule."""
    cause = error.__context__
    if isinstance(cause, CannotMeasureError):
        return cause.reasons[0].code
    if isinstance(cause, UnsupportedModelError):
        return cause.code
    return ""


def ask(setup: Refused) -> Run:
    """The rule's answer to a stand-in, for what cannot be run on a CPU."""
    (rule,) = [rule for rule in REFUSALS if rule.name == setup.rule]
    assert setup.stand_in is not None
    trainer_like, module = setup.stand_in()
    holds = rule.holds(trainer_like, module)
    if not holds:
        return Run("")
    message = f"`GradientNoiseScale`: {rule.message(trainer_like, module)}"
    return Run(message, code=setup.rule)


def rank() -> list[Run]:
    """What each of two processes does: all set-ups that need them."""
    with silence():
        return [run(setup) for setup in (*SUPPORTED, *REFUSED) if setup.ranks > 1]


class Row(NamedTuple):
    """A line of the tables.

    Args:
        number: of the set-up in the order of the page.
        measured: steps whose norms were compared; ``passed_over``: the others.
        skipped: why they were not used, with codes.
        code: of the reason, or the name of the rule, that refused it.
        q_small, q_big: greatest relative errors; NaN where refused.
        message: of the refusal.
    """

    name: str
    told: str
    probe: str
    measured: int
    passed_over: int
    q_small: float
    q_big: float
    message: str
    skipped: str = ""
    code: str = ""
    number: int = 0


def in_words(skipped: Iterable[tuple[Reason, int]]) -> str:
    """Reasons of skipped steps, each with its count and code."""
    return "; ".join(f"{count} `{reason.code}`: {reason.text}" for reason, count in skipped)


def supported_row(
    name: str,
    told: str,
    probe: str,
    found: Errors,
    passed_over: int,
    reasons: Iterable[tuple[Reason, int]],
) -> Row:
    """The row of a set-up that was measured."""
    norms = (found.q_small, found.q_big)
    return Row(name, told, probe, found.steps, passed_over, *norms, "", skipped=in_words(reasons))


def run_by_hand(setup: ByHand) -> list[Row]:
    """Both rows.

    Raises:
        RuntimeError: a norm is further off than the row allows.
    """
    module, rows = setup.module(), []
    batches = [[t.double() for t in batch] for batch in gan_data()]
    hand = by_hand(copy.deepcopy(module).double(), batches, setup.groups)
    callback = GradientNoiseScale(**setup.noise())
    recorders = {name: Recorder(callback, optimizer=name) for name in ("Adam", "Adam-1")}
    trainer(callback, *recorders.values(), accumulate=1, precision=setup.precision).fit(
        module, gan_data()
    )
    for (name, recorder), which, probe in zip(
        recorders.items(), "gd", probes(callback), strict=True
    ):
        found, one = differences(recorder.moments, hand[which]), skipped(callback, name)
        if max(found.q_small, found.q_big) > setup.bound:
            raise RuntimeError(f"{setup.name}: {found} is further off than {setup.bound}")
        title = f"{setup.name}: `noise_scale/{name}/…`"
        rows.append(supported_row(title, setup.told, probe, found, one.total(), one.items()))
    return rows


def judge(setup: Setup, ranks: Sequence[Run]) -> Row:
    """The row of a set-up that must be supported.

    Raises:
        RuntimeError: it was refused, a norm is further off than the row allows, or a step is
            missing that was not counted as skipped.
    """
    if ranks[0].refusal:
        raise RuntimeError(f"{setup.name}: refused with {ranks[0].refusal!r}")
    probe, moments = ranks[0].probe, ranks[0].moments
    steps = [run.steps[setup.passed_over :] for run in ranks]
    if probe != "examples" and len(ranks) == 1:  # one micro-batch alone is one group
        steps = [[step for step in steps[0] if len(step.batches) > 1]]
    found = errors((setup.plain or setup.module)(), moments, steps, probe)
    if max(found.q_big, 0.0 if setup.sketched else found.q_small) > setup.bound:
        raise RuntimeError(f"{setup.name}: {found} is further off than {setup.bound}")
    passed_over = len(ranks[0].steps) - found.steps
    counted = sum(count for _, count in ranks[0].skipped)
    if passed_over != counted:
        raise RuntimeError(f"{setup.name}: {passed_over} steps are missing, {counted} were skipped")
    reasons = ranks[0].skipped
    return supported_row(setup.name, setup.told, probe, found, passed_over, reasons)


def judge_refusal(setup: Refused, ranks: Sequence[Run]) -> Row:
    """The row of a set-up that must be refused.

    Raises:
        RuntimeError: it was not, or not with the same words on all ranks.
    """
    messages = {run.refusal for run in ranks}
    if len(messages) > 1 or "" in messages:
        raise RuntimeError(f"{setup.name}: not refused on all ranks alike, but {messages}")
    told = "run"
    if setup.stand_in:
        told = "asked with a stand-in: such a device or strategy is not here"
    elif setup.noise in (named, named_shards):
        told = f"run with probe={setup.noise()['probe']!r}"
    (code,) = {run.code for run in ranks}
    nan = float("nan")
    return Row(setup.name, told, "", 0, 0, nan, nan, messages.pop(), code=code)
