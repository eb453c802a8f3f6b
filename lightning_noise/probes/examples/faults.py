"""Why the examples probe cannot use a step."""

from collections.abc import Iterable

from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.examples.coverage import Group, listed

NOTHING_SEEN = Reason(
    "no_layer_seen",
    Severity.SKIP,
    "no covered layer was in the backward pass, or it ran before the hooks were there, or inside "
    "torch.compile (then use Examples(eager=True))",
    "Call listen before the forward pass, and begin before the backward pass.",
)
SEEN_TWICE = Reason(
    "backward_twice",
    Severity.SKIP,
    "backward went through one graph twice (retain_graph=True)",
    "Add the losses up and make one backward pass.",
)


def batch_not_first(examples: int, sizes: Iterable[int]) -> Reason:
    """Layers were called with other ``sizes`` along dimension 0 than the number of examples."""
    found = ", ".join(map(str, sorted(sizes)))
    return Reason(
        "batch_not_first",
        Severity.SKIP,
        f"no layer has the {examples} examples of the batch along dimension 0 (found there: "
        f"{found})",
        "Put the examples along dimension 0, or pass batch_size_fn.",
    )


def used_again(name: str) -> Reason:
    """A parameter was used after its per-example gradients had been squared."""
    return Reason(
        "used_again",
        Severity.SKIP,
        f"{name!r} was used again inside the backward pass; from the next step on its uses are "
        "added up",
    )


def left_out(groups: Iterable[Group]) -> Reason:
    """Parameters turned out in this step to have no per-example gradients."""
    named = "; ".join(group.brief for group in groups)
    return Reason(
        "parameters_left_out",
        Severity.SKIP,
        f"left out from the next step on: {named}",
        "Add rules with register_rule for layers that have none.",
    )


def watched_in_calls(names: Iterable[str]) -> Reason:
    """Layers do not show all uses of these parameters."""
    return Reason(
        "watched_in_calls",
        Severity.SKIP,
        f"calls of functions are watched from the next step on for {listed(sorted(names))}",
    )
