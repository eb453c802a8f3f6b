"""What a user should know about a number from single examples, in words."""

from collections.abc import Sequence

from lightning_noise.probes.examples.coverage import Coverage, by_cause, listed


def remarks_on(
    doubtful: Sequence[str],
    unchecked: Sequence[str],
    coverage: Coverage | None,
) -> list[str]:
    """One line per kind of reason for doubt; none where all was seen and checked.

    Args:
        doubtful: layers that always had as many positions as examples.
        unchecked: what of the check on mixing could not be made, and why.
        coverage: what is covered.
    """
    found: list[str] = []
    if doubtful:
        found.append(
            f"layers with as many positions as the batch has examples ({listed(list(doubtful))}): "
            "right if the batch is dimension 0 of what they get, wrong without a sign if it is "
            "dimension 1"
        )
    if unchecked:
        what = f"not checked whether the examples of a batch mix ({'; '.join(unchecked)})"
        found.append(f"{what}: if they do, the number is wrong")
    if coverage is not None and coverage.missing:
        groups = by_cause(coverage.missing)
        found.append(f"the number covers {coverage.shares}")
        found += [f"left out: {group.names} ({group.reason})" for group in groups]
    return found
