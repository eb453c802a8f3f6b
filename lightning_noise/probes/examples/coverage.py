"""How much of the model the probe sees, and what it does not see, by name and by cause."""

from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 5  # names in a line


class Cause(NamedTuple):
    """Why a parameter is left out.

    Args:
        kind: what it may have in common with other parameters.
        detail: what is its own: its layer, or an amount.
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


class Missing(NamedTuple):
    """A parameter that is left out, and its size."""

    name: str
    numbers: int
    cause: Cause

    @property
    def reason(self) -> str:
        """The cause in words."""
        return str(self.cause)


class Group(NamedTuple):
    """Parameters that are left out for one kind of cause."""

    missing: tuple[Missing, ...]

    def __str__(self) -> str:
        return f"  {self.names} ({self.numbers} numbers): {self.reason}"

    @property
    def names(self) -> str:
        """Of the first few."""
        return listed([part.name for part in self.missing])

    @property
    def numbers(self) -> int:
        """In all of them."""
        return sum(part.numbers for part in self.missing)

    @property
    def reason(self) -> str:
        """What they have in common, with the detail where it is the same."""
        causes = {part.cause for part in self.missing}
        return str(causes.pop()) if len(causes) == 1 else self.missing[0].cause.kind


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e and 3 more')
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def by_cause(missing: Iterable[Missing]) -> list[Group]:
    """One group per kind of cause, the largest first, and in each the largest parameters first."""
    kinds: dict[str, list[Missing]] = {}
    for part in sorted(missing, key=lambda part: -part.numbers):
        kinds.setdefault(part.cause.kind, []).append(part)
    groups = [Group(tuple(parts)) for parts in kinds.values()]
    return sorted(groups, key=lambda group: -group.numbers)


class Coverage(NamedTuple):
    """Share of the parameters, and of |ḡ|² where it has been measured, that norms are taken of.

    Args:
        parameters: share of the numbers in the watched parameters.
        grad_sq: share of the squared norm of the gradient; ``None`` before the first self-check.
        missing: what is left out.
    """

    parameters: float
    grad_sq: float | None
    missing: tuple[Missing, ...]

    @property
    def least(self) -> float:
        """The smaller of both shares."""
        return self.parameters if self.grad_sq is None else min(self.parameters, self.grad_sq)

    @property
    def shares(self) -> str:
        """Both shares in words."""
        shares = f"{self.parameters:.1%} of the parameters"
        if self.grad_sq is None:
            return shares
        return f"{shares} and {self.grad_sq:.1%} of the squared gradient norm"

    def describe(self) -> str:
        """The shares, and what is missing, one line per kind of cause."""
        lines = [str(group) for group in by_cause(self.missing)]
        return "\n".join([self.shares, *lines])
