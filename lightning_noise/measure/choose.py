"""Which probe for which set-up, and why: facts in, a choice with its reason out."""

from typing import NamedTuple


class Facts(NamedTuple):
    """What decides where groups of gradients can come from.

    Args:
        world_size: replicas that train on different examples.
        accumulation: greatest number of micro-batches an optimizer step will see on one rank.
        buckets: whether the strategy shows DDP's gradient buckets before they are reduced.
    """

    world_size: int
    accumulation: int
    buckets: bool = False


class Choice(NamedTuple):
    """The probe taken and the reason, in words for the user."""

    probe: str
    reason: str


class NoGroupsError(ValueError):
    """The set-up has no two groups of gradients to compare, or not for the probe that was asked for."""


def choose(requested: str, facts: Facts) -> Choice:
    """The probe to use. ``requested`` is "auto", or a probe's name as the user gave it.

    Rules of "auto", the first that holds: with two ranks or more and a strategy that shows the buckets, ``ranks`` (the least
    work, and with several ranks nearly the precision of more groups); with accumulation or several ranks, ``micro_batches``.

    Raises:
        NoGroupsError: the set-up cannot supply two groups of gradients in a step; the message names the way out.

    >>> choose("auto", Facts(world_size=1, accumulation=4))
    Choice(probe='micro_batches', reason='4 micro-batches a step on 1 rank are 4 groups')
    >>> choose("auto", Facts(world_size=8, accumulation=4, buckets=True))
    Choice(probe='ranks', reason='8 ranks are 8 groups, read from the buckets of DDP')
    """
    if requested == "ranks" or (requested == "auto" and facts.buckets and facts.world_size > 1):
        return _ranks(facts)
    if requested in ("auto", "micro_batches"):
        return _micro_batches(facts)
    return Choice(requested, "given by the user")


def _ranks(facts: Facts) -> Choice:
    if not facts.buckets:
        raise NoGroupsError(
            "probe='ranks' reads the buckets of DDP before they are reduced, and this strategy does not show them. Use "
            "strategy='ddp_noise' (or NoiseStrategyMixin in your own), or probe='micro_batches', which needs no such strategy."
        )
    if facts.world_size < 2:
        raise NoGroupsError(
            "probe='ranks' needs two groups of gradients per step, that is two ranks, but there is one (world_size=1). "
            "Use more devices, or probe='micro_batches' with accumulate_grad_batches=2 or more."
        )
    return Choice("ranks", f"{_count(facts.world_size, 'rank')} are {facts.world_size} groups, read from the buckets of DDP")


def _micro_batches(facts: Facts) -> Choice:
    groups = facts.world_size * facts.accumulation
    if groups < 2:
        raise NoGroupsError(
            "`GradientNoiseScale` needs two groups of gradients per step, but there is one "
            f"(world_size={facts.world_size}, accumulate_grad_batches={facts.accumulation}). "
            "Use Trainer(accumulate_grad_batches=2) or more with a batch size smaller by the same factor, or more devices."
        )
    where = f"{_count(facts.accumulation, 'micro-batch')} a step on {_count(facts.world_size, 'rank')}"
    return Choice("micro_batches", f"{where} are {groups} groups")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}{'es' if thing.endswith('ch') else 's'}"
