"""Numbers in words for people."""


def in_digits(value: float) -> str:
    """Three digits, or all of a whole number that is longer.

    >>> in_digits(1843.2), in_digits(41.27), in_digits(0.5)
    ('1843', '41.3', '0.5')
    """
    if abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:.0f}"


def in_percent(share: float) -> str:
    """Rounded to one percent, below two percent to a tenth, so that 0.4 % is not shown as nothing.

    >>> in_percent(0.226), in_percent(0.004)
    ('23 %', '0.4 %')
    """
    digits = 0 if abs(share) >= 0.02 else 1
    return f"{100 * share:.{digits}f} %"
