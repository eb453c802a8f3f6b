"""Numbers, counts and intervals as text: one format for everything that is reported."""


def number(value: float | None) -> str:
    """Three significant digits, without an exponent from 0.001 to a billion.

    >>> number(1234.5), number(0.01234), number(97.0), number(3.0), number(2e12)
    ('1230', '0.0123', '97', '3', '2e+12')
    """
    if value is None:
        return "unbounded"
    if value != 0 and not 1e-3 <= abs(value) < 1e9:
        return f"{value:.3g}"
    rounded = float(f"{value:.3g}")
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".")


def count(value: float, noun: str) -> str:
    """A number of things, rounded to an integer, with its noun.

    >>> count(1, "step"), count(17.9, "step"), count(119951.6, "example"), count(0.3, "step")
    ('1 step', '18 steps', '119952 examples', 'less than 1 step')
    """
    whole = round(value)
    if whole == 0 < value:
        return f"less than 1 {noun}"
    if whole == 1:
        return f"1 {noun}"
    return f"{whole} {noun}s"


def interval(low: float | None, high: float | None) -> str:
    """An interval, of which either end may be missing.

    >>> interval(8, None), interval(None, 9), interval(8, 9.5), interval(None, None)
    ('at least 8', 'at most 9', '8 to 9.5', 'no bounds')
    """
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    if low is not None:
        return f"at least {number(low)}"
    if high is not None:
        return f"at most {number(high)}"
    return "no bounds"


def duration(seconds: float) -> str:
    """A time in the unit that suits it, to two digits.

    >>> duration(0.4), duration(59), duration(754), duration(7000), duration(200_000)
    ('less than 1 s', '59 s', '13 min', '1.9 h', '2.3 days')
    """
    if seconds < 0.95:
        return "less than 1 s"
    if seconds < 99.5:
        return f"{_two_digits(seconds)} s"
    if seconds < 99.5 * 60:
        return f"{_two_digits(seconds / 60)} min"
    if seconds < 47.5 * 3600:
        return f"{_two_digits(seconds / 3600)} h"
    return f"{_two_digits(seconds / 86400)} days"


def about(seconds: float) -> str:
    """A time that is an estimate.

    >>> about(754), about(0.4)
    ('about 13 min', 'less than 1 s')
    """
    text = duration(seconds)
    if text.startswith("less"):
        return text
    return f"about {text}"


def _two_digits(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return number(float(f"{value:.2g}"))
