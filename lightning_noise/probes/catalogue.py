"""The probes by name, and which of them serves a run."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from torch.nn import Parameter

from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.probe import Offer, Probe
from lightning_noise.probes.ranks import Ranks
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.sharding import is_sharded
from lightning_noise.probes.shards import Shards

AUTO = "auto"
IN_ORDER: tuple[type[Probe], ...] = (Ranks, MicroBatches, Examples, Shards)  # the cheapest first
BY_NAME: dict[str, type[Probe]] = {kind.name: kind for kind in IN_ORDER}
NAMES = (AUTO, *BY_NAME)


class Chosen(NamedTuple):
    """The probe that serves a run, and what its groups are."""

    probe: Probe
    offer: Offer


def choose(
    wanted: str | Probe,
    setup: Setup,
    model: nn.Module | None,
    parameters: Mapping[str, Parameter],
) -> Chosen:
    """The probe to use: ``wanted`` by name or instance, or for "auto" the first that fits.

    "auto" tries ranks first, as they cost only two norms of the gradient per step and are nearly as
    precise as more groups. It tries micro-batches next, and single examples last. A probe that
    cannot promise two groups in every step is chosen only if no other probe can promise them.

    Raises:
        CannotMeasureError: no step will have two groups of gradients. The error lists the reason
            and the fix of every probe.

    >>> model = nn.Linear(2, 1)
    >>> parameters = dict(model.named_parameters())
    >>> choose("auto", Setup(accumulation=4), model, parameters).offer.reason
    '4 micro-batches per step on 1 rank are 4 groups'
    >>> choose("auto", Setup(), model, parameters).probe.name
    'examples'
    """
    sharded = is_sharded(model, parameters.values())
    if wanted != AUTO:
        probe = _instance_of(wanted)
        if sharded and not probe.sees_shards:
            raise CannotMeasureError([_sees_no_shards(probe)])
        answer = probe.offer(setup, model, parameters)
        if isinstance(answer, Reason):
            raise CannotMeasureError([answer])
        return Chosen(probe, answer)
    uncertain: Chosen | None = None
    refused: list[Reason] = []
    for kind in IN_ORDER:
        if kind.sees_shards != sharded:
            continue
        probe = kind()
        answer = probe.offer(setup, model, parameters)
        if isinstance(answer, Offer):
            if answer.certain:
                return Chosen(probe, answer)
            uncertain = Chosen(probe, answer)
        elif answer.severity is Severity.REFUSE:
            refused.append(answer)
    if uncertain is None:
        raise CannotMeasureError(refused)
    if sharded:
        return uncertain
    why = "; ".join(reason.text for reason in refused)
    reason = f"{uncertain.offer.reason} (single examples cannot be told apart: {why})"
    return uncertain._replace(offer=Offer(reason, certain=False))


def _instance_of(wanted: str | Probe) -> Probe:
    if isinstance(wanted, str):
        return BY_NAME[wanted]()
    return wanted


def _sees_no_shards(probe: Probe) -> Reason:
    return Reason(
        "sharded",
        Severity.REFUSE,
        f"the {probe.name} probe watches parameters or layers, and of a model sharded by FSDP it "
        "would see nothing or only a part",
        "Use the shards probe, which probe='auto' chooses.",
    )
