"""The base of all errors of this package, and what they say where an extra is missing."""


class NoiseScaleError(Exception):
    """Base of every error that this package raises for what it cannot measure, adapt or study.

    Wrong arguments raise ``TypeError`` and ``ValueError`` as usual.
    """


def how_to_install(extra: str) -> str:
    """How to install an extra. The package is on no index, so it is installed from its repository.

    >>> how_to_install("plots")
    "install the extra 'plots': pip install -e '.[plots]' in a checkout of lightning-noise"
    """
    command = f"pip install -e '.[{extra}]'"
    return f"install the extra {extra!r}: {command} in a checkout of lightning-noise"
