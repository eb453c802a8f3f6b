"""Reasons in Lightning's own words, and as Lightning's own error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.reasons import CannotMeasureError, Reason
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException

NO_EXAMPLES = "no_examples"
FIXES = {  # by code of the reason
    "no_buckets": (
        "Use strategy='ddp_noise' (or NoiseStrategyMixin in your own), or probe='micro_batches', "
        "which needs no such strategy."
    ),
    "one_rank": (
        "Use more devices, probe='examples', or probe='micro_batches' with "
        "accumulate_grad_batches=2 or more."
    ),
    "one_example": "Use a batch_size of 2 or more, or Trainer(accumulate_grad_batches=2) or more.",
    "no_whole_gradients": (
        "Use Trainer(accumulate_grad_batches=2) or more with probe='micro_batches', several ranks, "
        "or measure_noise_scale."
    ),
    "two_passes": "Add the losses up and call manual_backward once.",
    "last_pass_only": "Use probe='micro_batches', or call manual_backward once per step.",
    "no_pass": "Call self.manual_backward(loss) in place of loss.backward(), before the step.",
    "curvature_groups": (
        "Use Trainer(accumulate_grad_batches=3) or more, or pass loss_fn, (module, batch) -> mean "
        "loss, with which a batch can be split into pieces; or measure_noise_scale at a checkpoint."
    ),
    "curvature_pieces": "Use Trainer(accumulate_grad_batches=3) or more.",
}
MORE_GROUPS = (
    "Use Trainer(accumulate_grad_batches=2) or more with a batch size smaller by the same factor, "
    "or more devices."
)


def reworded(reason: Reason, trainer: L.Trainer) -> Reason:
    """A reason for the user of a Trainer: the arguments to change by their names."""
    if reason.code == "one_group":
        accumulated = f"accumulate_grad_batches={trainer.accumulate_grad_batches}"
        there = f"world_size={trainer.world_size}, {accumulated}"
        text = f"it needs two groups of gradients per step, but there is one ({there})"
        return reason._replace(text=text, fix=MORE_GROUPS)
    text = re.sub(r"the (\w+) probe\b", r"probe='\1'", reason.text)  # as the argument is written
    return reason._replace(text=text, fix=FIXES.get(reason.code, reason.fix))


def as_text(error: NoiseScaleError, trainer: L.Trainer) -> str:
    """The text of an error, in Lightning's words."""
    if not isinstance(error, CannotMeasureError):
        return str(error)
    reasons = [reworded(reason, trainer) for reason in error.reasons]
    first, *others = reasons
    if first.code == NO_EXAMPLES:
        fix, otherwise = _fixes(first)
        text = f"{fix}: {first.text}. {otherwise}"
        return text.rstrip()
    texts = [str(first)]
    for reason in others:
        if reason.code == NO_EXAMPLES:
            _, otherwise = _fixes(reason)
            text = f"Single examples cannot be told apart here: {reason.text}. {otherwise}"
            texts.append(text.rstrip())
    return " ".join(texts)


def _fixes(reason: Reason) -> tuple[str, str]:
    """The first suggested fix, and the others."""
    fix, _, otherwise = reason.fix.partition(". ")
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
