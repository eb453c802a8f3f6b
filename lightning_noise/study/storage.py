"""Where finished runs are kept: an Optuna storage.

Each batch size has one Optuna study for its search and one for its reruns. A run is written once,
whole, when it has ended. So whatever is killed and whenever, the storage holds finished runs only.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from lightning_noise.study.errors import StorageError
from lightning_noise.study.fingerprint import Fingerprint, changed, difference
from lightning_noise.study.goal import Goal, GoalOutcome
from lightning_noise.study.opening import Opened
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import quiet
from lightning_noise.study.task import RERUN, Outcome, RunKey, Task

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
        plan: the protocol at this batch size.
        settings: what decides what a run gives and is part of the study itself, as plain values.

    Raises:
        StorageError: the storage holds a study of this name with other settings.
    """

    def __init__(
        self,
        opened: Opened,
        name: str,
        plan: SizePlan,
        settings: Mapping[str, Any],
    ) -> None:
        self._opened = opened
        self._space = plan.space
        self._goals = plan.goals
        ranges = {}
        for parameter, distribution in plan.space.items():
            ranges[parameter] = optuna.distributions.distribution_to_json(distribution)
        own = {**settings, "search_space": ranges}
        base = f"{name}/global_size={plan.global_size}"
        self._search = _study(opened, base, own)
        self._reruns = _study(opened, f"{base}/{RERUN}", own)

    def agree(self, present: Fingerprint, *, accept_changes: bool) -> list[str]:
        """Compares the code and options behind the stored runs with the present ones.

        Returns notes for the reader of the result. Where nothing is stored yet, or changes are
        accepted, the present ones are stored.

        Raises:
            StorageError: they differ, and ``accept_changes`` is False.
        """
        study = self._search
        runs = any(True for _ in self._runs())
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
            notes.append(f"runs from before {what} are kept, as accepted")
        if runs and not stored:
            notes.append(UNKNOWN_CODE)
        return notes

    def load(self) -> dict[RunKey, Outcome]:
        """All runs kept."""
        return dict(_unpack(run, self._goals) for run in self._runs())

    def _runs(self) -> Iterator[dict[str, Any]]:
        for study in (self._search, self._reruns):
            for trial in study.get_trials(deepcopy=False):
                if "run" in trial.user_attrs:
                    yield trial.user_attrs["run"]

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
            user_attrs={"run": _pack(task, outcome, self._goals)},
        )
        study = self._reruns if task.key.is_rerun else self._search
        study.add_trial(trial)


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
        other = f"other settings: {_settings_changed(found, wanted)}"
        fix = "Give this one another name or storage"
        raise StorageError(f"the storage holds study {name!r} with {other}. {fix}.")
    return study


def _settings_changed(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    texts = []
    for key in sorted({*found, *wanted}):
        before, now = found.get(key), wanted.get(key)
        if before != now:
            texts.append(f"{key} was {before!r} and is {now!r}")
    return "; ".join(texts)


def as_setting(options: Mapping[str, Any]) -> str:
    """Options as text, without the addresses of functions, which differ in every process."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(sorted(options.items())))


def _stored_fingerprint(study: optuna.Study) -> Fingerprint:
    stored = {}
    for name, value in study.user_attrs.items():
        if name.startswith(CODE):
            stored[name.removeprefix(CODE)] = value
    return stored


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


def _pack(task: Task, outcome: Outcome, goals: tuple[Goal, ...]) -> dict[str, Any]:
    """A run as JSON. Its goals are stored by their position in the study."""
    found = {str(goals.index(goal)): list(one) for goal, one in outcome.goals.items()}
    return {
        "key": list(task.key),
        "goals": found,
        "pruned": outcome.pruned,
        "noise": outcome.noise,
        "warning": outcome.warning,
    }


def _unpack(run: Mapping[str, Any], goals: tuple[Goal, ...]) -> tuple[RunKey, Outcome]:
    found = {goals[int(i)]: GoalOutcome(*one) for i, one in run["goals"].items()}
    return RunKey(*run["key"]), Outcome(found, run["pruned"], run["noise"], run["warning"])
