"""Where finished runs are kept: an Optuna storage, one Optuna study a batch size and one for its reruns.

A run is written once, whole, when it has ended. So whatever is killed and whenever, the storage holds finished runs only.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from lightning_noise.study.goal import GoalOutcome
from lightning_noise.study.space import Distributions, Parameters, quiet
from lightning_noise.study.trial import RERUN, Outcome, Task

Key = tuple[int, str, int, int]
Kept = tuple[Key, Parameters, Outcome]


class StorageError(RuntimeError):
    """The storage cannot be used for this study, or is in use."""


@contextmanager
def opened(storage: str | Path | BaseStorage | None, name: str) -> Iterator[BaseStorage]:
    """The storage, with its journal file locked while it is in use.

    Raises:
        StorageError: another process is running a study on the same file.
    """
    if isinstance(storage, BaseStorage):
        yield storage
    elif isinstance(storage, str) and "://" in storage:
        yield get_storage(storage)
    elif storage is not None and not isinstance(storage, (str, Path)):
        raise StorageError(f"storage must be a path, a URL of Optuna's or an Optuna storage, got {storage!r}.")
    elif storage is not None and Path(storage).is_dir():
        raise StorageError(
            f"storage must be a journal file, but {storage} is a folder. Name a file in it, such as "
            f"{Path(storage) / 'study.journal'}."
        )
    else:
        path = Path(storage or f"{name}.journal")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{path}.running", timeout=0):  # the system lets go of it when the process dies, however it dies
                _drop_torn_line(path)
                yield JournalStorage(JournalFileBackend(str(path)))
        except Timeout as error:
            raise StorageError(
                f"storage {path} is in use by another run of a study. Wait for it, or take another file."
            ) from error


def _drop_torn_line(path: Path) -> None:
    """A process that was killed while it wrote may leave half a line, which would spoil the next one."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


class Shelf:
    """The finished runs of one batch size.

    Args:
        storage: of Optuna.
        name: of the study.
        global_size: examples in one optimizer step.
        space: ranges of the parameters at this size.
        settings: everything that decides what a run gives, as plain values.

    Raises:
        StorageError: the storage holds a study of this name with other settings.
    """

    def __init__(
        self, storage: BaseStorage, name: str, global_size: int, space: Distributions, settings: Mapping[str, Any]
    ) -> None:
        self._space = space
        own = {
            **settings,
            "search_space": {name: optuna.distributions.distribution_to_json(dist) for name, dist in space.items()},
        }
        base = f"{name}/global_size={global_size}"
        self._studies = [_study(storage, base, own), _study(storage, f"{base}/{RERUN}", own)]

    def load(self) -> list[Kept]:
        """All runs kept."""
        trials = [trial for study in self._studies for trial in study.get_trials(deepcopy=False)]
        return [_unpack(trial) for trial in trials if "run" in trial.user_attrs]

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Writes a finished run. Its value is the steps to the first of its goals; without it, its state is pruned."""
        steps = outcome.goals[task.goals[0]].steps
        trial = create_trial(
            state=TrialState.PRUNED if steps is None else TrialState.COMPLETE,
            value=steps,
            params=task.parameters,
            distributions=self._space,
            user_attrs={"run": _pack(task, outcome)},
        )
        self._studies[task.phase == RERUN].add_trial(trial)


def _study(storage: BaseStorage, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        with quiet():
            study = optuna.create_study(storage=storage, study_name=name)
    wanted = json.loads(json.dumps(settings))
    found = study.user_attrs.get("settings")
    if found is None:
        study.set_user_attr("settings", wanted)
    elif found != wanted:
        other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        told = "; ".join(f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in other)
        raise StorageError(
            f"the storage holds study {name!r} with other settings: {told}. Give this one another name or storage."
        )
    return study


def _pack(task: Task, outcome: Outcome) -> dict[str, Any]:
    return {
        "key": list(task.key),
        "goals": {str(goal): list(found) for goal, found in outcome.goals.items()},
        "pruned": outcome.pruned,
        "noise": outcome.noise,
        "warning": outcome.warning,
    }


def _unpack(trial: optuna.trial.FrozenTrial) -> Kept:
    run = trial.user_attrs["run"]
    size, phase, index, seed = run["key"]
    goals = {int(goal): GoalOutcome(*found) for goal, found in run["goals"].items()}
    return (size, phase, index, seed), trial.params, Outcome(goals, run["pruned"], run["noise"], run["warning"])
