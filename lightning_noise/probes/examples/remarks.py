"""What a user should know about an estimate from single examples, in words."""

from collections.abc import Sequence

from lightning_noise.probes.examples.coverage import Coverage, by_cause, listed


def remarks_on(
    doubtful: Sequence[str],
    unchecked: Sequence[str],
    coverage: Coverage | None,
) -> list[str]:
    """One line per kind of reason for doubt; none if everything was seen and checked.

    Args:
        doubtful: layers that always had as many positions as examples.
        unchecked: what of the check on mixing could not be made, and why.
        coverage: what is covered.
    """
    found: list[str] = []
    if doubtful:
        layers = listed(list(doubtful))
        found.append(
            f"layers with as many positions as the batch has examples ({layers}): the estimate is "
            "right if the batch is dimension 0 of their inputs, and silently wrong if it is "
            "dimension 1"
        )
    if unchecked:
        reasons = "; ".join(unchecked)
        found.append(
            f"not checked whether the examples of a batch mix ({reasons}): if they do, the "
            "estimate is wrong"
        )
    if coverage is not None and coverage.missing:
        found.append(f"the estimate covers {coverage.shares}")
        found += [f"left out: {group.brief}" for group in by_cause(coverage.missing)]
    return found
