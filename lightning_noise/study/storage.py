"""Where finished runs are kept: an Optuna storage, one Optuna study a batch size and one for its reruns.

A run is written once, whole, when it has ended. So whatever is killed and whenever, the storage holds finished runs only.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from lightning_noise.study.errors import StorageError
from lightning_noise.study.fingerprint import Fingerprint, changed, difference
from lightning_noise.study.goal import GoalOutcome
from lightning_noise.study.opening import Opened
from lightning_noise.study.space import Distributions, Parameters, quiet
from lightning_noise.study.trial import RERUN, Outcome, Task

Key = tuple[int, str, int, int]
Kept = tuple[Key, Parameters, Outcome]

CODE = "code:"  # before the parts of a fingerprint in the attributes of a study
ACCEPTED = "accepted_changes"
UNKNOWN_CODE = (
    "the stored runs are from a version of lightning-noise that did not record make_module, "
    "make_data and the options they were made with, so it cannot be checked that these are the "
    "present ones"
)


class Shelf:
    """The finished runs of one batch size.

    Args:
        opened: the storage.
        name: of the study.
        global_size: examples in one optimizer step.
        space: ranges of the parameters at this size.
        settings: what decides what a run gives and is part of the study itself, as plain values.

    Raises:
        StorageError: the storage holds a study of this name with other settings.
    """

    def __init__(
        self,
        opened: Opened,
        name: str,
        global_size: int,
        space: Distributions,
        settings: Mapping[str, Any],
    ) -> None:
        self._opened = opened
        self._space = space
        ranges = {key: optuna.distributions.distribution_to_json(space[key]) for key in space}
        own = {**settings, "search_space": ranges}
        base = f"{name}/global_size={global_size}"
        self._studies = [_study(opened, one, own) for one in (base, f"{base}/{RERUN}")]

    def agree(self, present: Fingerprint, *, accept_changes: bool) -> list[str]:
        """Compares the code and options behind the stored runs with the present ones.

        Returns what a reader of the result has to know. Where nothing is stored yet, or changes
        are accepted, the present ones are stored.

        Raises:
            StorageError: they differ, and ``accept_changes`` is False.
        """
        study, runs = self._studies[0], any(True for _ in self._runs())
        stored = _stored_fingerprint(study)
        accepted: list[str] = study.user_attrs.get(ACCEPTED, [])
        parts = changed(stored, present) if stored and runs else []
        if parts and not accept_changes:
            raise StorageError(_other_code(study.study_name, parts, stored, present))
        accepted = sorted({*accepted, *parts})
        if stored != present and not self._opened.read_only:
            _store_fingerprint(self._opened, study, present, accepted)
        notes = []
        if accepted:
            what = f"a change of {' and '.join(accepted)}"
            notes.append(f"runs from before {what} are kept, as was accepted")
        if runs and not stored:
            notes.append(UNKNOWN_CODE)
        return notes

    def load(self) -> list[Kept]:
        """All runs kept."""
        return [_unpack(trial) for trial in self._runs()]

    def _runs(self) -> Iterator[optuna.trial.FrozenTrial]:
        for study in self._studies:
            for trial in study.get_trials(deepcopy=False):
                if "run" in trial.user_attrs:
                    yield trial

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Writes a finished run.

        Its value is the steps to the first of its goals; without it, its state is pruned.

        Raises:
            StorageError: another process has taken over the study.
        """
        self._opened.check_writing()
        steps = outcome.goals[task.goals[0]].steps
        trial = create_trial(
            state=TrialState.PRUNED if steps is None else TrialState.COMPLETE,
            value=steps,
            params=task.parameters,
            distributions=self._space,
            user_attrs={"run": _pack(task, outcome)},
        )
        self._studies[task.phase == RERUN].add_trial(trial)


def _study(opened: Opened, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    try:
        study = optuna.load_study(storage=opened.storage, study_name=name)
    except KeyError:
        opened.check_writing()
        with quiet():
            study = optuna.create_study(storage=opened.storage, study_name=name)
    wanted = json.loads(json.dumps(settings))
    found = study.user_attrs.get("settings")
    if found is None:
        opened.check_writing()
        study.set_user_attr("settings", wanted)
    elif found != wanted:
        keys = sorted({*found, *wanted})
        other = [key for key in keys if found.get(key) != wanted.get(key)]
        told = "; ".join(f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in other)
        raise StorageError(
            f"the storage holds study {name!r} with other settings: {told}. Give this one another name or storage."
        )
    return study


def in_words(options: Mapping[str, Any]) -> str:
    """Options as a setting: without the addresses of functions, which every process has anew."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(sorted(options.items())))


def _stored_fingerprint(study: optuna.Study) -> Fingerprint:
    attributes = study.user_attrs
    names = [name for name in attributes if name.startswith(CODE)]
    return {name.removeprefix(CODE): attributes[name] for name in names}


def _store_fingerprint(
    opened: Opened,
    study: optuna.Study,
    present: Fingerprint,
    accepted: list[str],
) -> None:
    opened.check_writing()
    if accepted:  # first: a process that dies in between must not hide the change
        study.set_user_attr(ACCEPTED, accepted)
    for part, texts in present.items():
        study.set_user_attr(f"{CODE}{part}", texts)


def _other_code(name: str, parts: list[str], stored: Fingerprint, present: Fingerprint) -> str:
    other = f"another {' and '.join(parts)}, or other code behind it"
    return (
        f"Give this study another name or storage: the runs that are stored as {name!r} were made "
        f"with {other}. If the change cannot change a result, accept_changes=True of run() "
        "(--accept-changes on the command line) keeps them.\n"
        f"{difference(stored, present)}"
    )


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
