"""Where finished runs are kept: an Optuna storage.

Each batch size has one Optuna study for its search and one for its reruns. A run is written in a
single step, when it has ended. So whatever is killed, and whenever, the storage holds only finished
runs.
"""

import json
import re
from collections.abc import Mapping
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
BEFORE_SETTINGS = {"wave": 4}  # what settings were before a storage held them
UNKNOWN_CODE = (
    "the stored runs are from a version of lightning-noise that did not record make_module, "
    "make_data and the options they were made with, so it cannot be checked whether these have "
    "changed"
)


class Shelf:
    """The finished runs of one batch size.

    Args:
        opened: the storage.
        name: of the study.
        plan: the protocol at this batch size.
        settings: those of the study that determine the result of a run, as plain values.

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
        all_settings = {**settings, "search_space": ranges}
        base = f"{name}/global_size={plan.global_size}"
        self._search = _study(opened, base, all_settings)
        self._reruns = _study(opened, f"{base}/{RERUN}", all_settings)

    def agree(self, present: Fingerprint, *, accept_changes: bool) -> list[str]:
        """Compares the code and options behind the stored runs with the current ones.

        Returns notes for the reader of the result. Where nothing is stored yet, or changes are
        accepted, the current ones are stored.

        Raises:
            StorageError: they differ, and ``accept_changes`` is False.
        """
        study = self._search
        runs = self._runs()
        stored = _stored_fingerprint(study)
        parts = []
        if stored and runs:
            parts = changed(stored, present)
        if parts and not accept_changes:
            raise StorageError(_other_code(study.study_name, parts, stored, present))
        accepted = sorted({*study.user_attrs.get(ACCEPTED, []), *parts})
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
        """All stored runs. Of two with the same key the first counts, for every reader."""
        found: dict[RunKey, Outcome] = {}
        for run in self._runs():
            key, outcome = _unpack(run, self._goals)
            found.setdefault(key, outcome)
        return found

    def _runs(self) -> list[dict[str, Any]]:
        trials = [
            *self._search.get_trials(deepcopy=False),
            *self._reruns.get_trials(deepcopy=False),
        ]
        return [trial.user_attrs["run"] for trial in trials if "run" in trial.user_attrs]

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Writes a finished run.

        Its value is the steps to the first of its goals; without it, its state is pruned.

        Raises:
            StorageError: another process has taken over the study.
        """
        self._opened.check_writing()
        steps = outcome.goals[task.goals[0]].steps
        state = TrialState.COMPLETE
        if steps is None:
            state = TrialState.PRUNED
        trial = create_trial(
            state=state,
            value=steps,
            params=task.parameters,
            distributions=self._space,
            user_attrs={"run": _pack(task, outcome, self._goals)},
        )
        if task.key.is_rerun:
            self._reruns.add_trial(trial)
        else:
            self._search.add_trial(trial)


def _study(
    opened: Opened,
    name: str,
    settings: Mapping[str, Any],
) -> optuna.Study:
    try:
        study = optuna.load_study(storage=opened.storage, study_name=name)
    except KeyError:
        opened.check_writing()
        with quiet():
            study = optuna.create_study(
                storage=opened.storage,
                study_name=name,
                load_if_exists=True,  # another process may create it at this moment
            )
    wanted = json.loads(json.dumps(settings))
    found = study.user_attrs.get("settings")
    if found is None:
        opened.check_writing()
        study.set_user_attr("settings", wanted)
        return study
    found = {**BEFORE_SETTINGS, **found}
    if found != wanted:
        other = f"other settings: {_settings_changed(found, wanted)}"
        fix = "Give this one another name or storage"
        raise StorageError(f"the storage holds study {name!r} with {other}. {fix}.")
    return study


def _settings_changed(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> str:
    texts = []
    for key in sorted({*found, *wanted}):
        before = found.get(key)
        now = wanted.get(key)
        if before != now:
            texts.append(f"{key} was {before!r} and is {now!r}")
    return "; ".join(texts)


def as_setting(options: Mapping[str, Any]) -> str:
    """Options as text, without the addresses of functions, which differ in every process."""
    text = repr(sorted(options.items()))
    return re.sub(" at 0x[0-9a-fA-F]+", "", text)


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


def _pack(
    task: Task,
    outcome: Outcome,
    goals: tuple[Goal, ...],
) -> dict[str, Any]:
    """A run as JSON. Its goals are stored by their position in the study."""
    found = {}
    for goal, one in outcome.goals.items():
        position = str(goals.index(goal))
        found[position] = list(one)
    return {
        "key": list(task.key),
        "goals": found,
        "pruned": outcome.pruned,
        "noise": outcome.noise,
        "warning": outcome.warning,
    }


def _unpack(
    run: Mapping[str, Any],
    goals: tuple[Goal, ...],
) -> tuple[RunKey, Outcome]:
    found = {}
    for position, one in run["goals"].items():
        goal = goals[int(position)]
        found[goal] = GoalOutcome(*one)
    outcome = Outcome(
        goals=found,
        pruned=run["pruned"],
        noise=run["noise"],
        warning=run["warning"],
    )
    return RunKey(*run["key"]), outcome
