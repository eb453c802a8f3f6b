"""``lightning.pytorch`` and ``pytorch_lightning``: one code base under two names, whose classes do
not know each other.

The `lightning` package depends on `pytorch-lightning`, so both are there, and once one is loaded
the other costs little (0.15 s and 6 MiB, measured). It is loaded with this package, so that the
order of a user's imports does not matter.
"""

import importlib
from typing import TYPE_CHECKING, TypeVar

from lightning.fabric.utilities import exceptions
from lightning.pytorch import callbacks

from lightning_noise.core.errors import NoiseScaleError

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
TWINS = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}
T = TypeVar("T")
try:
    import pytorch_lightning as _  # noqa: F401  # only to see whether it is there

    INSTALLED = True
except ModuleNotFoundError:  # a Lightning that no longer brings it
    INSTALLED = False


def either(kind: type[T]) -> tuple[type[T], ...]:
    """A class of ``lightning.pytorch`` and the class of that name in ``pytorch_lightning``, for
    ``isinstance``.

    >>> from lightning.pytorch.strategies import DDPStrategy
    >>> [found.__module__ for found in either(DDPStrategy)]
    ['lightning.pytorch.strategies.ddp', 'pytorch_lightning.strategies.ddp']
    """
    if not INSTALLED:
        return (kind,)
    own_path = kind.__module__
    package = ".".join(own_path.split(".")[:2])
    twin_path = own_path.replace(package, TWINS[package], 1)
    module = importlib.import_module(twin_path)
    return (kind, getattr(module, kind.__qualname__))


def package_of(thing: object) -> str:
    """Which of the two packages an object's class is derived from; "" for neither.

    >>> package_of(callbacks.Timer()), package_of(3)
    ('lightning.pytorch', '')
    """
    modules = [kind.__module__ for kind in type(thing).__mro__]
    for package in PACKAGES:
        if any(name.startswith(f"{package}.") for name in modules):
            return package
    return ""


if TYPE_CHECKING:  # the twins differ in nothing but their names
    Callback = callbacks.Callback
    MisconfigurationException = exceptions.MisconfigurationException
else:

    class Callback(*either(callbacks.Callback)):
        """A callback for the Trainer, the command line and the ``isinstance`` of both packages."""

    class MisconfigurationException(  # noqa: N818  # Lightning's own name
        NoiseScaleError, *either(exceptions.MisconfigurationException)
    ):
        """Caught by ``except MisconfigurationException`` of either package."""
