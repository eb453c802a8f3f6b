"""Which probe for which set-up, and why: facts in, a choice with its reason out."""

from typing import NamedTuple


class Facts(NamedTuple):
    """What decides where groups of gradients can come from.

    Args:
        world_size: replicas that train on different examples.
        accumulation: greatest number of micro-batches an optimizer step will see on one rank.
    """

    world_size: int
    accumulation: int


class Choice(NamedTuple):
    """The probe taken and the reason, in words for the user."""

    probe: str
    reason: str


class NoGroupsError(ValueError):
    """The set-up has no two groups of gradients to compare."""


def choose(requested: str, facts: Facts) -> Choice:
    """The probe to use. ``requested`` is "auto", or a probe's name as the user gave it.

    Raises:
        NoGroupsError: the set-up cannot supply two groups of gradients in a step; the message names the way out.

    >>> choose("auto", Facts(world_size=1, accumulation=4))
    Choice(probe='micro_batches', reason='4 micro-batches a step on 1 rank are 4 groups')
    """
    if requested not in ("auto", "micro_batches"):
        return Choice(requested, "given by the user")
    groups = facts.world_size * facts.accumulation
    if groups < 2:
        raise NoGroupsError(
            "`GradientNoiseScale` needs two groups of gradients per step, but there is one "
            f"(world_size={facts.world_size}, accumulate_grad_batches={facts.accumulation}). "
            "Use Trainer(accumulate_grad_batches=2) or more with a batch size smaller by the same factor, or more devices."
        )
    ranks = "1 rank" if facts.world_size == 1 else f"{facts.world_size} ranks"
    micro = "1 micro-batch" if facts.accumulation == 1 else f"{facts.accumulation} micro-batches"
    return Choice("micro_batches", f"{micro} a step on {ranks} are {groups} groups")
