"""Lists of names in one string."""


def names(text: str) -> frozenset[str]:
    """The words of a text.

    >>> sorted(names("add mul"))
    ['add', 'mul']
    """
    return frozenset(text.split())
