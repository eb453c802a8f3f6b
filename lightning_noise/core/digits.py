"""Numbers as text, for sentences."""


def in_digits(value: float) -> str:
    """Three significant digits, or all digits of a longer integer.

    >>> in_digits(1843.2), in_digits(41.27), in_digits(0.5)
    ('1843', '41.3', '0.5')
    """
    if abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:.0f}"


def in_percent(share: float) -> str:
    """Rounded to one percent, or to a tenth below two percent, so that 0.4 % is not shown as zero.

    >>> in_percent(0.226), in_percent(0.004)
    ('23 %', '0.4 %')
    """
    if abs(share) < 0.02:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.0f} %"
