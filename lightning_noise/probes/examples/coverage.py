"""How much of the model the probe sees, and what it does not see, by name and cause."""

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

SHOWN = 5  # names in one line


class Cause(NamedTuple):
    """Why a parameter is left out.

    Args:
        kind: the part of the cause that other parameters may share.
        detail: the part that belongs to this parameter: its layer, or an amount.
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        if not self.detail:
            return self.kind
        return f"{self.kind} ({self.detail})"


class Missing(NamedTuple):
    """A parameter that is left out, with its number of elements."""

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
        return f"  {self.names} ({self.numbers} parameters): {self.reason}"

    @property
    def brief(self) -> str:
        """The names, then the cause in brackets."""
        return f"{self.names} ({self.reason})"

    @property
    def names(self) -> str:
        """The first few names."""
        return listed([part.name for part in self.missing])

    @property
    def numbers(self) -> int:
        """The number of elements in all of them."""
        return sum(part.numbers for part in self.missing)

    @property
    def reason(self) -> str:
        """The cause that they share, with its detail if that is the same for all."""
        first = self.missing[0].cause
        for part in self.missing:
            if part.cause != first:
                return first.kind
        return str(first)


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e and 3 more')
    """
    shown = ", ".join(names[:SHOWN])
    more = len(names) - SHOWN
    if more <= 0:
        return shown
    return f"{shown} and {more} more"


def by_cause(missing: Iterable[Missing]) -> list[Group]:
    """One group per kind of cause, the largest first, with the largest parameters of each first."""
    by_size = attrgetter("numbers")
    kinds: dict[str, list[Missing]] = {}
    for part in sorted(missing, key=by_size, reverse=True):
        kinds.setdefault(part.cause.kind, []).append(part)
    groups = [Group(tuple(parts)) for parts in kinds.values()]
    return sorted(groups, key=by_size, reverse=True)


class Coverage(NamedTuple):
    """Share of the parameters, and of |ḡ|² once it has been measured, that norms are taken of.

    Args:
        parameters: share of the elements of the watched parameters.
        grad_sq: share of the squared norm of the gradient; ``None`` before the first self-check.
        missing: what is left out.
    """

    parameters: float
    grad_sq: float | None
    missing: tuple[Missing, ...]

    @property
    def least(self) -> float:
        """The smaller of both shares."""
        if self.grad_sq is None:
            return self.parameters
        return min(self.parameters, self.grad_sq)

    @property
    def left_out(self) -> float | None:
        """Share of the squared gradient norm that is not covered; ``None`` where not measured."""
        if not self.missing:
            return 0.0
        return None if self.grad_sq is None else 1 - self.grad_sq

    @property
    def shares(self) -> str:
        """Both shares in words."""
        shares = f"{self.parameters:.1%} of the parameters"
        if self.grad_sq is None:
            return shares
        return f"{shares} and {self.grad_sq:.1%} of the squared gradient norm"

    def describe(self) -> str:
        """The shares, and what is missing, in one line per kind of cause."""
        lines = map(str, by_cause(self.missing))
        return "\n".join([self.shares, *lines])
