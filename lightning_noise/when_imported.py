"""Work that is done once another package is imported, or at once where it already is."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder:
    """Finds one package as the other finders do, and watches its first import.

    Only the loader of that import is changed, and it is as before when the package is executed:
    nothing that inspects or reloads the package sees a difference. The finder stays until an import
    has succeeded, so that asking whether the package is installed does not use it up.
    """

    def __init__(self, package: str, then: Callable[[], object]) -> None:
        self._package = package
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of the package, with a loader that is watched; None for others."""
        if name != self._package:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        if loader is None:
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the method of its class is visible again
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._then()

        # of this one loader, until it has been called
        loader.exec_module = exec_module  # type: ignore[method-assign]


def when_imported(package: str, then: Callable[[], object]) -> None:
    """Calls ``then`` once the package has been imported, or at once where it already is."""
    if sys.modules.get(package) is None:
        sys.meta_path.insert(0, _Finder(package, then))
    else:
        then()
