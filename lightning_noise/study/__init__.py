"""Studies of the critical batch size by experiment. Needs the extra ``study`` (Optuna).

Names are imported on first use: what a goal or a search is costs neither Optuna nor Lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_noise.core.errors import how_to_install

if TYPE_CHECKING:
    from lightning_noise.study.branched import branched_check, run_branch_file
    from lightning_noise.study.branched_result import BranchedCheck
    from lightning_noise.study.errors import StorageError
    from lightning_noise.study.goal import Budget, Goal
    from lightning_noise.study.loading import StudyFileError
    from lightning_noise.study.ranges import (
        CentredLearningRate,
        Choice,
        DecaySteps,
        LogUniform,
        Momentum,
        Uniform,
    )
    from lightning_noise.study.result import Comparison, StudyResult
    from lightning_noise.study.runner import TrialError
    from lightning_noise.study.running import run_all, run_file
    from lightning_noise.study.settings import Search, Workers
    from lightning_noise.study.study import BatchSizeStudy

_ROOMS = {
    "BatchSizeStudy": "study",
    "BranchedCheck": "branched_result",
    "Budget": "goal",
    "CentredLearningRate": "ranges",
    "Choice": "ranges",
    "Comparison": "result",
    "DecaySteps": "ranges",
    "Goal": "goal",
    "LogUniform": "ranges",
    "Momentum": "ranges",
    "Search": "settings",
    "StorageError": "errors",
    "StudyFileError": "loading",
    "StudyResult": "result",
    "TrialError": "runner",
    "Uniform": "ranges",
    "Workers": "settings",
    "branched_check": "branched",
    "run_all": "running",
    "run_branch_file": "branched",
    "run_file": "running",
}

__all__ = [
    "BatchSizeStudy",
    "BranchedCheck",
    "Budget",
    "CentredLearningRate",
    "Choice",
    "Comparison",
    "DecaySteps",
    "Goal",
    "LogUniform",
    "Momentum",
    "Search",
    "StorageError",
    "StudyFileError",
    "StudyResult",
    "TrialError",
    "Uniform",
    "Workers",
    "branched_check",
    "run_all",
    "run_branch_file",
    "run_file",
]


def __getattr__(name: str) -> Any:
    """A public name, imported from its module."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        room = importlib.import_module(f"{__name__}.{_ROOMS[name]}")
    except ModuleNotFoundError as error:
        needs = f"lightning_noise.study needs more packages ({error})"
        raise ImportError(f"{needs}; {how_to_install('study')}") from error
    return getattr(room, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
