"""Why the engine does not use a step, and how the counts by reason are kept in a checkpoint."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_noise.core.reasons import Reason, Severity

NOT_FINITE = Reason(
    "not_finite",
    Severity.SKIP,
    "gradients were not finite (overflow)",
    "Do nothing where the scaler of mixed precision finds its scale; otherwise lower the learning "
    "rate.",
)
ONE_GROUP = Reason(
    "one_group_in_step",
    Severity.SKIP,
    "only one group of gradients in the step",
    "Accumulate gradients over two micro-batches or more in every step.",
)
NO_SIZE = Reason(
    "no_batch_size",
    Severity.SKIP,
    "the number of examples in a batch could not be determined",
    "Pass batch_size_fn, a function from the batch to its number of examples (or tokens).",
)
NO_BACKWARD = Reason(
    "no_backward",
    Severity.SKIP,
    "the backward pass before the optimizer's step was missing",
    "Make a backward pass over every micro-batch of a step.",
)
NO_ROW = Reason(
    "no_row",
    Severity.SKIP,
    "the probe returned no row and gave no reason",
    "Return the reason from the probe's fault().",
)
UNNAMED = (NOT_FINITE, ONE_GROUP, NO_SIZE, NO_BACKWARD)  # their texts contain no names


def saved(skipped: Mapping[Reason, int]) -> list[dict[str, Any]]:
    """Counts by reason as plain Python values.

    >>> saved({Reason("one_group", Severity.SKIP, "there is one"): 3})
    [{'code': 'one_group', 'text': 'there is one', 'fix': '', 'count': 3}]
    """
    entries: list[dict[str, Any]] = []
    for reason, count in skipped.items():
        entry = {"code": reason.code, "text": reason.text, "fix": reason.fix, "count": count}
        entries.append(entry)
    return entries


def loaded(state: Sequence[Mapping[str, Any]] | Mapping[str, int]) -> Counter[Reason]:
    """Counts by reason from what :func:`saved` returned, or from the texts and counts of an earlier
    version.

    >>> loaded({"only one group of gradients in the step": 3}) == {ONE_GROUP: 3}
    True
    """
    if isinstance(state, Mapping):
        return _from_texts(state)
    skipped: Counter[Reason] = Counter()
    for entry in state:
        reason = Reason(entry["code"], Severity.SKIP, entry["text"], entry["fix"])
        skipped[reason] += entry["count"]
    return skipped


def _from_texts(counts: Mapping[str, int]) -> Counter[Reason]:
    known = {reason.text: reason for reason in UNNAMED}
    skipped: Counter[Reason] = Counter()
    for text, count in counts.items():
        reason = known.get(text)
        if reason is None:
            reason = Reason("earlier_version", Severity.SKIP, text)
        skipped[reason] += count
    return skipped
