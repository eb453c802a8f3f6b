"""Where finished runs are kept: an Optuna storage.

Each batch size has one Optuna study for its search and one for all other runs. A run is written in
a single step, when it has ended. So whatever is killed, and whenever, the storage holds only
finished runs.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_noise.study.errors import StorageError
from lightning_noise.study.fingerprint import Fingerprint, changed, difference
from lightning_noise.study.growth import (
    FORMAT,
    as_texts,
    budget_changed,
    check_format,
    check_settings,
    other_budget,
)
from lightning_noise.study.opening import Opened
from lightning_noise.study.packing import is_whole, pack, unpack
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import for_optuna, quiet
from lightning_noise.study.task import RERUN, SEARCH, Outcome, Record, RunKey, Task

CODE = "code:"  # before the parts of a fingerprint in the attributes of a study
ACCEPTED = "accepted_changes"
SETTINGS = "settings"
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
        settings: those of the study, as plain values.

    Raises:
        StorageError: the storage holds a study of this name with settings that change what a run
            gives, or runs of an earlier version.
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
        spaces = as_texts([*plan.earlier, plan.space])
        everything = {**settings, "format": FORMAT, "spaces": spaces}
        self._settings = json.loads(json.dumps(everything))
        base = _name(name, plan.global_size)
        self._search = self._study(base)
        self._others = self._study(f"{base}/{RERUN}")
        self._unpacked: dict[tuple[str, int], tuple[RunKey, Record]] = {}

    def _study(self, name: str) -> optuna.Study:
        study = _loaded(self._opened, name)
        if study is None:
            self._opened.check_writing()
            with quiet():
                study = optuna.create_study(
                    storage=self._opened.storage,
                    study_name=name,
                    load_if_exists=True,  # another process may create it at this moment
                )
        found = study.user_attrs.get(SETTINGS)
        if found is None:
            self._opened.check_writing()
            study.set_user_attr(SETTINGS, self._settings)
            return study
        check_format(name, found)
        check_settings(name, found, self._settings)
        return study

    def agree(self, present: Fingerprint, *, accept_changes: bool) -> list[str]:
        """Compares the code and options behind the stored runs with the current ones.

        Returns notes for the reader of the result. Where nothing is stored yet, or changes are
        accepted, the current ones are stored. So are the settings, where the study has grown.

        Raises:
            StorageError: they differ, and ``accept_changes`` is False.
        """
        study = self._search
        has_runs = bool(self._trials())
        stored = _stored_fingerprint(study)
        parts = []
        if stored and has_runs:
            parts = changed(stored, present)
        if parts and not accept_changes:
            raise StorageError(_other_code(study.study_name, parts, stored, present))
        before = study.user_attrs[SETTINGS]
        if has_runs and budget_changed(before, self._settings, present):
            if not accept_changes:
                raise other_budget(study.study_name, before, self._settings)
            parts.append("the budget")
        accepted = sorted({*study.user_attrs.get(ACCEPTED, []), *parts})
        if not self._opened.read_only:
            if stored != present or parts:
                _store_fingerprint(self._opened, study, present, accepted)
            self._store_settings()
        notes = []
        if accepted:
            what = f"a change of {' and '.join(accepted)}"
            notes.append(f"runs from before {what} are kept, as accepted")
        if has_runs and not stored:
            notes.append(UNKNOWN_CODE)
        return notes

    def _store_settings(self) -> None:
        for study in (self._search, self._others):
            if study.user_attrs[SETTINGS] != self._settings:
                self._opened.check_writing()
                study.set_user_attr(SETTINGS, self._settings)

    def load(self) -> dict[RunKey, tuple[Record, ...]]:
        """All stored runs, in the order of storing."""
        found: dict[RunKey, list[Record]] = {}
        for which, trial in self._trials().items():
            if which not in self._unpacked:
                self._unpacked[which] = unpack(trial.user_attrs)
            key, record = self._unpacked[which]
            found.setdefault(key, []).append(record)
        return {key: tuple(records) for key, records in found.items()}

    def _trials(self) -> dict[tuple[str, int], FrozenTrial]:
        """(Optuna study, number in it) → every trial that holds a run."""
        found = {}
        for study in (self._search, self._others):
            for trial in study.get_trials(deepcopy=False):
                if is_whole(trial.user_attrs):
                    found[study.study_name, trial.number] = trial
        return found

    def keep(self, task: Task, record: Record, outcome: Outcome) -> None:
        """Writes a finished run.

        For Optuna its value is the steps to the first of its goals; without it, its state is
        pruned.

        Raises:
            StorageError: another process has taken over the study.
        """
        self._opened.check_writing()
        steps = outcome.goals[task.goals[0]].steps
        state = TrialState.COMPLETE
        if steps is None:
            state = TrialState.PRUNED
        point, space = for_optuna(task.parameters, self._space)
        trial = create_trial(
            state=state,
            value=steps,
            params=point,
            distributions=space,
            user_attrs=pack(task.key, record, task.parameters),
        )
        if task.phase == SEARCH:
            self._search.add_trial(trial)
        else:
            self._others.add_trial(trial)


def stored_settings(opened: Opened, name: str, global_size: int) -> dict[str, Any] | None:
    """The settings with which a batch size was run last; None where it is new.

    Raises:
        StorageError: the runs are of an earlier version.
    """
    base = _name(name, global_size)
    study = _loaded(opened, base)
    if study is None:
        return None
    found: dict[str, Any] | None = study.user_attrs.get(SETTINGS)
    if found is not None:
        check_format(base, found)
    return found


def _name(name: str, global_size: int) -> str:
    return f"{name}/global_size={global_size}"


def _loaded(opened: Opened, name: str) -> optuna.Study | None:
    try:
        return optuna.load_study(storage=opened.storage, study_name=name)
    except KeyError:
        return None


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
