"""What the probe tells before a run: what its groups are, or why it cannot serve."""

from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.examples.errors import UnsupportedModelError
from lightning_noise.probes.probe import Offer
from lightning_noise.probes.setup import Setup

ONE_EXAMPLE = Reason(
    "one_example",
    Severity.REFUSE,
    "two groups of gradients are needed per step, but the batch holds one example and gradients "
    "are not accumulated",
    "Use a batch size of 2 or more, or accumulate gradients over two micro-batches or more.",
)


def offer_for(setup: Setup, *, eager: bool) -> Offer:
    """The groups of a run whose model has per-example gradients.

    ``eager`` tells whether measured steps run without ``torch.compile``.
    """
    reason = "single examples are the groups, as requested"
    if setup.manual and setup.ranks == 1:
        reason = "1 rank and manual optimization, so single examples are the groups"
    elif setup.ranks * setup.accumulation <= 1:
        reason = "1 rank and no accumulation, so single examples are the groups"
    if eager:
        reason = f"{reason}; measured steps run without torch.compile"
    return Offer(reason)


def as_reason(error: UnsupportedModelError) -> Reason:
    """Why a model cannot be measured, for the host."""
    fix = f"{error.fix}. {error.otherwise}".rstrip()
    return Reason(error.code, Severity.REFUSE, error.cause, fix)
