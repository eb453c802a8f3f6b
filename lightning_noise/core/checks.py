"""Checks of arguments where they are given: each rule has one text."""

import math


def check_number(
    name: str,
    value: object,
    *,
    rule: str,
    lower: float,
    strict: bool = False,
) -> None:
    """Refuses what is not a finite number of at least ``lower``; ``strict``: above it.

    Args:
        name: of the argument.
        value: what was given.
        rule: what it must be, in words.
        lower: least value.
        strict: whether ``lower`` itself is refused too.

    Raises:
        TypeError, ValueError: it is of the wrong type or out of range.

    >>> check_number("rate", -1, rule="a finite number > 0", lower=0, strict=True)
    Traceback (most recent call last):
    ValueError: rate must be a finite number > 0, got -1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {rule}, got {value!r}.")
    too_low = value < lower or (strict and value == lower)
    if not math.isfinite(value) or too_low:
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def check_positive(**values: float) -> None:
    """Refuses, by name, what is not a finite number above 0; number types of NumPy are accepted.

    Raises:
        ValueError: one of the values is no such number.

    >>> check_positive(old=1.0, new=0)
    Traceback (most recent call last):
    ValueError: new must be a finite number > 0, got 0.
    """
    for name, value in values.items():
        try:
            good = not isinstance(value, str) and math.isfinite(value) and value > 0
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be a finite number > 0, got {value!r}.")


def check_count(name: str, value: object, *, also: str = "") -> None:
    """Refuses what is not an integer of at least 1; ``also`` says what else is allowed.

    Raises:
        TypeError, ValueError: it is of the wrong type or below 1.

    >>> check_count("max_local_size", 0, also="None or ")
    Traceback (most recent call last):
    ValueError: max_local_size must be None or an int >= 1, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {also}an int >= 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be {also}an int >= 1, got {value!r}.")


def check_flag(name: str, value: object) -> None:
    """Refuses what is neither True nor False.

    Raises:
        TypeError: it is something else.

    >>> check_flag("shrink", 1)
    Traceback (most recent call last):
    TypeError: shrink must be a bool, got 1.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}.")
