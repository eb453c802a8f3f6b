"""What of a study may change on a storage that has runs, and what may not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import FloatDistribution, distribution_to_json, json_to_distribution

from lightning_noise.study.errors import StorageError
from lightning_noise.study.fingerprint import Fingerprint
from lightning_noise.study.space import Distributions

FORMAT = 2  # of stored runs: with all their readings
FIXED = ("seed", "noise_scale", "validate_every")  # what a run gives depends on these
READS_BUDGET = ("max_steps", "estimated_stepping_batches")
ROUNDING = 1e-9  # relative: ends of a range that differ by less are the same


def check_format(name: str, found: Mapping[str, Any]) -> None:
    """Refuses runs of which only the results were stored.

    Raises:
        StorageError: they are from an earlier version.
    """
    if found.get("format") == FORMAT:
        return
    raise StorageError(
        f"Give this study another name or storage: the runs that are stored as {name!r} are from "
        "an earlier version of lightning-noise, which stored their results without their readings "
        "and chose winners by one seed. That version still reads them."
    )


def check_settings(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses settings with which the stored runs would have been others.

    Raises:
        StorageError: shows both sides.
    """
    texts = []
    for key in FIXED:
        before = found.get(key)
        now = wanted.get(key)
        if before != now:
            texts.append(f"{key} was {before!r} and is {now!r}")
    if texts:
        other = f"other settings: {'; '.join(texts)}"
        fix = "Give this one another name or storage"
        raise StorageError(f"the storage holds study {name!r} with {other}. {fix}.")


def spaces_in(settings: Mapping[str, Any]) -> tuple[Distributions, ...]:
    """The search spaces that a study has had at a batch size, oldest first."""
    found = []
    for texts in settings["spaces"]:
        space = {}
        for parameter, text in texts.items():
            space[parameter] = json_to_distribution(text)
        found.append(space)
    return tuple(found)


def as_texts(spaces: Sequence[Distributions]) -> list[dict[str, str]]:
    """The inverse of :func:`spaces_in`."""
    found = []
    for space in spaces:
        texts = {name: distribution_to_json(dist) for name, dist in space.items()}
        found.append(json.loads(json.dumps(texts)))
    return found


def earlier_spaces(
    name: str,
    before: Sequence[Distributions],
    present: Distributions,
) -> tuple[Distributions, ...]:
    """The spaces that a study had before the present one, which may only be wider.

    Raises:
        StorageError: it is not.
    """
    last = before[-1]
    if _same(last, present):
        return tuple(before[:-1])
    lost = []
    for parameter in sorted({*last, *present}):
        was, now = last.get(parameter), present.get(parameter)
        if not _holds(was, now):
            lost.append(f"{parameter!r} was {was} and is {now}")
    if lost:
        raise StorageError(
            f"Give this study another name or storage: a range of study {name!r} may become wider "
            f"but not narrower or another one, and {'; '.join(lost)}."
        )
    return tuple(before)


def budget_changed(before: Mapping[str, Any], now: Mapping[str, Any], code: Fingerprint) -> bool:
    """Whether the budget has changed and the code of the runs reads it, as a schedule does."""
    if before.get("budget_steps") == now.get("budget_steps"):
        return False
    for texts in code.values():
        for text in texts.values():
            if any(word in text for word in READS_BUDGET):
                return True
    return False


def other_budget(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> StorageError:
    """The refusal of a budget that may change what a run gives."""
    was, present = before.get("budget_steps"), now.get("budget_steps")
    return StorageError(
        f"Give this study another name or storage: the runs stored as {name!r} had a budget of "
        f"{was} steps, now it is {present}, and the module reads it (max_steps or "
        "estimated_stepping_batches), so that they would be other runs. If the budget does not "
        "change what a run gives, accept_changes=True of run() (--accept-changes on the command "
        "line) keeps them."
    )


def _same(one: Distributions, other: Distributions) -> bool:
    return set(one) == set(other) and all(
        _holds(one[name], other[name]) and _holds(other[name], one[name]) for name in one
    )


def _holds(before: object, now: object) -> bool:
    """Whether a range holds all of an earlier one."""
    if not isinstance(before, FloatDistribution) or not isinstance(now, FloatDistribution):
        return before == now
    slack = ROUNDING * (abs(before.low) + abs(before.high))
    wide = now.low <= before.low + slack and now.high >= before.high - slack
    return wide and now.log == before.log
