"""Which probe for which set-up, and why: facts in, a choice with its reason out."""

from typing import NamedTuple


class Facts(NamedTuple):
    """What decides where groups of gradients can come from.

    Args:
        world_size: replicas that train on different examples.
        accumulation: least number of micro-batches that an optimizer step is to see on one rank (a schedule may change it).
        greatest: the greatest such number; 0 where it does not change.
        manual: whether the module steps by itself, so that nobody knows how many micro-batches a step will see.
        buckets: whether the strategy shows DDP's gradient buckets before they are reduced.
        no_examples: why single examples cannot be told apart in this model; ``None`` where they can.
    """

    world_size: int
    accumulation: int
    buckets: bool = False
    no_examples: str | None = None
    greatest: int = 0
    manual: bool = False


class Choice(NamedTuple):
    """The probe taken and the reason, in words for the user."""

    probe: str
    reason: str


class NoGroupsError(ValueError):
    """The set-up has no two groups of gradients to compare, or not for the probe that was asked for."""


def choose(requested: str, facts: Facts) -> Choice:
    """The probe to use. ``requested`` is "auto", or a probe's name as the user gave it.

    Rules of "auto", the first that holds: with two ranks or more and a strategy that shows the buckets, ``ranks`` (the least
    work, and with several ranks nearly the precision of more groups); with accumulation or several ranks, ``micro_batches``
    (one norm of the gradient a micro-batch); else ``examples``, where the model's layers allow it.

    Raises:
        NoGroupsError: the set-up cannot supply two groups of gradients in a step; the message names the way out.

    >>> choose("auto", Facts(world_size=1, accumulation=1))
    Choice(probe='examples', reason='1 rank and no accumulation, so single examples are the groups')
    >>> choose("auto", Facts(world_size=1, accumulation=4))
    Choice(probe='micro_batches', reason='4 micro-batches a step on 1 rank are 4 groups')
    >>> choose("auto", Facts(world_size=8, accumulation=4, buckets=True))
    Choice(probe='ranks', reason='8 ranks are 8 groups, read from the buckets of DDP')
    """
    if facts.manual and facts.world_size == 1 and requested in ("micro_batches", "auto"):
        return _manual(requested, facts)
    groups = facts.world_size * facts.accumulation
    if facts.greatest > facts.accumulation and (requested == "micro_batches" or facts.no_examples is not None):
        return choose(requested, facts._replace(accumulation=facts.greatest, greatest=0))  # some steps will be passed over
    if requested == "ranks" or (requested == "auto" and facts.buckets and facts.world_size > 1):
        return _ranks(facts)
    if requested == "micro_batches" or (requested == "auto" and groups > 1):
        return _micro_batches(facts, groups)
    if requested in ("examples", "auto"):
        return _examples(requested, facts)
    return Choice(requested, "given by the user")


def _manual(requested: str, facts: Facts) -> Choice:
    if requested == "auto" and facts.no_examples is None:
        return Choice("examples", "1 rank and manual optimization, so single examples are the groups")
    reason = (
        "manual optimization on 1 rank, so the backward passes between two steps are the groups; steps on one are passed over"
    )
    why = "" if requested != "auto" else f" (single examples cannot be told apart: {facts.no_examples})"
    return Choice("micro_batches", reason + why)


def _ranks(facts: Facts) -> Choice:
    if not facts.buckets:
        raise NoGroupsError(
            "probe='ranks' reads the buckets of DDP before they are reduced, and this strategy does not show them. Use "
            "strategy='ddp_noise' (or NoiseStrategyMixin in your own), or probe='micro_batches', which needs no such strategy."
        )
    if facts.world_size < 2:
        raise NoGroupsError(
            "probe='ranks' needs two groups of gradients per step, that is two ranks, but there is one (world_size=1). "
            "Use more devices, probe='examples', or probe='micro_batches' with accumulate_grad_batches=2 or more."
        )
    return Choice("ranks", f"{_count(facts.world_size, 'rank')} are {facts.world_size} groups, read from the buckets of DDP")


def _micro_batches(facts: Facts, groups: int) -> Choice:
    if groups < 2:
        raise NoGroupsError(
            f"{_one_group(facts)} Use probe='examples', Trainer(accumulate_grad_batches=2) or more with a batch size smaller "
            "by the same factor, or more devices."
        )
    where = f"{_count(facts.accumulation, 'micro-batch')} a step on {_count(facts.world_size, 'rank')}"
    return Choice("micro_batches", f"{where} are {groups} groups")


def _examples(requested: str, facts: Facts) -> Choice:
    if facts.no_examples is not None:
        if requested == "examples":
            raise NoGroupsError(facts.no_examples)
        raise NoGroupsError(
            f"{_one_group(facts)} Use Trainer(accumulate_grad_batches=2) or more with a batch size smaller by the same factor, "
            f"or more devices. Single examples cannot be told apart here: {facts.no_examples}"
        )
    few = f"{_count(facts.world_size, 'rank')} and no accumulation, so single examples are the groups"
    return Choice("examples", few if requested == "auto" else "single examples are the groups, as asked for")


def _one_group(facts: Facts) -> str:
    return (
        "`GradientNoiseScale` needs two groups of gradients per step, but there is one "
        f"(world_size={facts.world_size}, accumulate_grad_batches={facts.accumulation})."
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}{'es' if thing.endswith('ch') else 's'}"
