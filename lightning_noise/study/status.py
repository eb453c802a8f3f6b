"""What is done of the studies in a storage, as any machine can ask for it while they run.

Nothing is written, and no lock is taken. The plan of a study follows from the settings that are
stored with it, so its file is not needed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna

from lightning_noise.say.words import about, count, number
from lightning_noise.study import journal
from lightning_noise.study.advisory import DIALECTS, backend
from lightning_noise.study.errors import StorageError
from lightning_noise.study.goal import Goal
from lightning_noise.study.growth import check_format, spaces_in
from lightning_noise.study.opening import Opened, connected, sqlite_file
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.settings import Search
from lightning_noise.study.standing import durations, remaining, seconds_left
from lightning_noise.study.storage import SETTINGS, Shelf
from lightning_noise.study.task import RERUN, Record, RunKey

READ_ONLY = "this storage is only being looked at"
HEADER = ("global size", "runs done", "expected", "running", "fewest steps")
_SIZE = re.compile(r"(?P<name>.+)/global_size=(?P<size>\d+)")


def status(storage: str | Path) -> str:
    """The state of every study in a storage, as text.

    Args:
        storage: path of a journal file, or URL of a database.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    with _watched(str(storage)) as opened:
        if opened is None:
            return "there is no study in this storage yet"
        texts = []
        for name, sizes in _studies(opened).items():
            texts.append(_of_study(opened, name, sizes))
    return "\n\n".join(texts) or "there is no study in this storage yet"


@contextmanager
def _watched(storage: str) -> Iterator[Opened | None]:
    """The storage for reading; None where a database has no tables yet."""
    if "://" not in storage:
        path = Path(storage)
        _check_exists(path)
        yield Opened(journal.read(path, writable=False), obstacle=READ_ONLY)
        return
    if backend(storage) not in DIALECTS:
        file = sqlite_file(storage)
        if file is not None:
            _check_exists(file)
        yield Opened(connected(storage), obstacle=READ_ONLY)
        return
    with _database(storage) as opened:
        yield opened


@contextmanager
def _database(url: str) -> Iterator[Opened | None]:
    from lightning_noise.study.shared_database import SharedDatabase, has_tables

    if not has_tables(url):
        yield None
        return
    database = SharedDatabase(url, name="")
    try:
        yield Opened(database.storage, obstacle=READ_ONLY, claims=database)
    finally:
        database.close()


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise StorageError(f"there is no storage {path}.")


def _studies(opened: Opened) -> dict[str, dict[int, dict[str, Any]]]:
    """Name → global size → settings, of the sizes whose two Optuna studies exist."""
    settings = {}
    for study in optuna.get_all_study_summaries(opened.storage, include_best_trial=False):
        settings[study.study_name] = study.user_attrs.get(SETTINGS)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, values in settings.items():
        match = _SIZE.fullmatch(name)
        if match is not None and values and settings.get(f"{name}/{RERUN}"):
            sizes = found.setdefault(match["name"], {})
            check_format(name, values)
            sizes[int(match["size"])] = values
    return found


def _of_study(
    opened: Opened,
    name: str,
    sizes: Mapping[int, dict[str, Any]],
) -> str:
    plans = []
    done: dict[RunKey, tuple[Record, ...]] = {}
    for size in sorted(sizes):
        settings = sizes[size]
        plan = plan_of(size, settings)
        done |= Shelf(opened, name, plan, settings).load()
        plans.append(plan)
    open_keys = []
    for plan in plans:
        open_keys += [task.key for task in plan.next_tasks(done)]
    running = opened.claims.holders(name, open_keys)
    table: list[tuple[str, ...]] = [HEADER]
    for plan in plans:
        table.append(_row(plan, done, running))
    expected = sum(plan.expected(done) for plan in plans)
    finished = sum(plan.finished(done) for plan in plans)
    lines = [f"study {name!r}: {finished} of about {count(expected, 'run')} done"]
    lines += _aligned(table)
    seconds = seconds_left(remaining(plans, done), durations(done), workers=1)
    if seconds is not None:
        lines.append(f"  {about(seconds)} of training left, one run after the other")
    for key, who in running.items():
        lines.append(f"  {who}: {key.phase} {key.trial}, seed {key.seed}, at {key.global_size}")
    return "\n".join(lines)


def plan_of(global_size: int, settings: Mapping[str, Any]) -> SizePlan:
    """The protocol at a batch size, from the settings in the storage."""
    *earlier, space = spaces_in(settings)
    search = {}
    for field in fields(Search):
        if field.name in settings:
            search[field.name] = settings[field.name]
    return SizePlan(
        global_size=global_size,
        space=space,
        goals=tuple(Goal(**goal) for goal in settings["goals"]),
        search=Search(**search),
        budget_steps=settings["budget_steps"],
        every=settings["validate_every"],
        earlier=tuple(earlier),
    )


def _row(
    plan: SizePlan,
    done: Mapping[RunKey, tuple[Record, ...]],
    running: Mapping[RunKey, str],
) -> tuple[str, ...]:
    size = plan.global_size
    active = [key for key in running if key.global_size == size]
    best = plan.best_steps(plan.goals[0], done)
    steps = "none yet"
    if best is not None:
        steps = number(best)
    return str(size), str(plan.finished(done)), str(plan.expected(done)), str(len(active)), steps


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = []
    for column in zip(*table, strict=True):
        widths.append(max(map(len, column)))
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells))
    return lines
