"""Studies in a Python file, which worker processes have to load in the same way."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


class StudyFileError(ValueError):
    """The file holds no study that can be run."""


_loaded: dict[str, ModuleType] = {}


def load(path: str | Path) -> ModuleType:
    """The module of a Python file.

    It has a name made from its path, so that its functions can be sent to worker processes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    full = Path(path).resolve()
    if not full.is_file():
        raise FileNotFoundError(f"there is no study file {path}.")
    if str(full) not in _loaded:
        digest = hashlib.sha256(str(full).encode()).hexdigest()[:8]
        name = f"lightning_noise_study_{full.stem}_{digest}"
        spec = importlib.util.spec_from_file_location(name, full)
        if spec is None or spec.loader is None:
            rule = "must be a Python file whose name ends in .py"
            raise StudyFileError(f"study file {path} {rule}.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _loaded[str(full)] = module
    return _loaded[str(full)]


def sources() -> list[str]:
    """Every file that was loaded here."""
    return list(_loaded)
