"""Studies of the critical batch size by experiment. Needs the extra ``study`` (Optuna)."""

try:
    from lightning_noise.study.errors import StorageError
    from lightning_noise.study.goal import Budget, Goal
    from lightning_noise.study.loading import StudyFileError
    from lightning_noise.study.result import Comparison, StudyResult
    from lightning_noise.study.run_file import run_all, run_file
    from lightning_noise.study.runner import TrialError
    from lightning_noise.study.space import CentredLearningRate, Choice, LogUniform, Uniform
    from lightning_noise.study.study import BatchSizeStudy
except ModuleNotFoundError as error:
    raise ImportError(f"lightning_noise.study needs more packages ({error}): pip install 'lightning-noise[study]'") from error

__all__ = [
    "BatchSizeStudy",
    "Budget",
    "CentredLearningRate",
    "Choice",
    "Comparison",
    "Goal",
    "LogUniform",
    "StorageError",
    "StudyFileError",
    "StudyResult",
    "TrialError",
    "Uniform",
    "run_all",
    "run_file",
]
