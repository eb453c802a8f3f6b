"""The base of all errors of this package."""


class NoiseScaleError(Exception):
    """Base of every error that this package raises for what it cannot measure, adapt or study.

    Wrong arguments raise ``TypeError`` and ``ValueError`` as usual.
    """
