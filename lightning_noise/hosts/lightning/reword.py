"""Reasons in Lightning's own words, and as Lightning's own error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.reasons import CannotMeasureError, Reason
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException
from lightning_noise.probes.examples.errors import ACCUMULATE, UnsupportedModelError
from lightning_noise.probes.examples.uncompiled import EAGER_FIX

NO_EXAMPLES = frozenset({"batch_statistics", "low_coverage"})  # codes of the examples probe
SPLIT = "Use GradientNoiseScale(split=2)"
SPLIT_IN_FOUR = "Use GradientNoiseScale(split=4)"
FIRST = {  # by code of the reason: the fix that leads the message, and the others
    "one_group": (
        SPLIT,
        "Or use Trainer(accumulate_grad_batches=2) or more with a batch size smaller by the same "
        "factor, or more devices.",
    ),
    "one_rank": (SPLIT, "Or use more devices, or probe='examples'."),
    "no_whole_gradients": (
        SPLIT,
        "Or use Trainer(accumulate_grad_batches=2) or more with probe='micro_batches', several "
        "ranks, or measure_noise_scale.",
    ),
    "curvature_groups": (
        SPLIT_IN_FOUR,
        "Or use Trainer(accumulate_grad_batches=3) or more, or pass loss_fn, (module, batch) -> "
        "mean loss, by which a batch can be taken to pieces; or measure_noise_scale at a "
        "checkpoint.",
    ),
    "curvature_pieces": (SPLIT_IN_FOUR, "Or use Trainer(accumulate_grad_batches=3) or more."),
}
FIXES = {  # by code of the reason
    "no_buckets": (
        "Use strategy='ddp_noise' (or NoiseStrategyMixin in your own), or probe='micro_batches', "
        "which needs no such strategy."
    ),
    "one_example": "Use a batch_size of 2 or more, or Trainer(accumulate_grad_batches=2) or more.",
    "two_passes": "Add the losses up and call manual_backward once.",
    "last_pass_only": "Use probe='micro_batches', or call manual_backward once per step.",
    "no_pass": "Call self.manual_backward(loss) in place of loss.backward(), before the step.",
}


def reworded(reason: Reason, trainer: L.Trainer) -> Reason:
    """A reason for the user of a Trainer: the arguments to change by their names."""
    if reason.code == "one_group":
        accumulated = f"accumulate_grad_batches={trainer.accumulate_grad_batches}"
        there = f"world_size={trainer.world_size}, {accumulated}"
        text = f"it needs two groups of gradients per step, but there is one ({there})"
        return reason._replace(text=text)
    text = re.sub(r"the (\w+) probe\b", r"probe='\1'", reason.text)  # as the argument is written
    return reason._replace(text=text, fix=FIXES.get(reason.code, reason.fix))


def as_text(error: NoiseScaleError, trainer: L.Trainer) -> str:
    """The text of an error, in Lightning's words."""
    splits = trainer.lightning_module.automatic_optimization
    if isinstance(error, UnsupportedModelError):
        return _examples_text(error.cause, f"{error.fix}. {error.otherwise}", splits)
    if not isinstance(error, CannotMeasureError):
        return str(error)
    first, *others = [reworded(reason, trainer) for reason in error.reasons]
    texts = [_leading(first, splits)]
    for reason in others:
        if reason.code in NO_EXAMPLES:
            _, otherwise = _fixes(reason.fix)
            text = f"Single examples cannot be told apart here: {reason.text}. {otherwise}"
            texts.append(text.rstrip())
    return " ".join(texts)


def _leading(reason: Reason, splits: bool) -> str:
    """A reason behind its best fix; ``splits``: whether the batches of the run can be split."""
    if reason.code in NO_EXAMPLES:
        return _examples_text(reason.text, reason.fix, splits)
    if reason.code not in FIRST:
        return str(reason)
    fix, otherwise = FIRST[reason.code]
    return f"{fix}: {reason.text}. {otherwise}"


def _examples_text(cause: str, fixes: str, splits: bool) -> str:
    """Why single examples cannot be measured, behind the best fix."""
    fix, otherwise = _fixes(fixes)
    if splits and fix == ACCUMULATE:
        fix = SPLIT
    elif splits and fix.startswith(EAGER_FIX):
        fix = f"{EAGER_FIX}, or GradientNoiseScale(split=2)"
    elif splits:
        otherwise = f"Or {fix[0].lower()}{fix[1:]}. {otherwise}"
        fix = SPLIT
    return f"{fix}: {cause}. {otherwise}".rstrip()


def _fixes(fixes: str) -> tuple[str, str]:
    """The first suggested fix, and the others."""
    fix, _, otherwise = fixes.partition(". ")
    return fix.rstrip("."), otherwise


@contextmanager
def refusing(trainer: L.Trainer) -> Iterator[None]:
    """Turns errors of the measurement into Lightning's error for a wrong set-up."""
    try:
        yield
    except MisconfigurationException:
        raise
    except NoiseScaleError as error:
        text = f"`GradientNoiseScale`: {as_text(error, trainer)}"
        # the original error would repeat it, in words for a loop
        raise MisconfigurationException(text) from None
