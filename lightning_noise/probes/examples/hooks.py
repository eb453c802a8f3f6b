"""Hooks on modules that do not follow a module into its copies."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class ModuleHook:
    """A hook that stays with its module: deep copies and pickles hold a hook that does nothing.

    >>> import copy
    >>> hook = ModuleHook(print)
    >>> hook("seen"), copy.deepcopy(hook)("seen")
    seen
    (None, None)
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # A method that takes anything and returns None. It is from the standard library, so that a
        # pickled module can be loaded where this package is not installed.
        return getattr, (nullcontext(), "__exit__")
