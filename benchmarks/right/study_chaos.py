"""Does a shared study survive what happens to machines? Four processes on a real PostgreSQL.

Four processes run one study of a noisy quadratic in a new database, three of them in their own
process, one with a worker process. At random moments one of them is killed (SIGKILL) and started
again, one is paused (SIGSTOP) for more than twice the time after which the server ends a silent
connection, and the server itself is crashed and restarted. The columns:

- runs: that the study needs. begun: that were begun; redone: begun without being stored.
- kills, of which parents: processes that had a worker process; workers: such worker processes.
- pauses, of which taken_over: the run of the paused process was begun by another one meanwhile.
- restarts: of the server.
- stored: rows in the database; duplicated and lost: more or less than one for a run.
- same_tables: processes whose table equals that of one undisturbed process in every bit.
"""

import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from optuna.storages import RDBStorage

from benchmarks.harness.spec import Benchmark, Done, option
from benchmarks.harness.tables import markdown
from benchmarks.right.chaos import HOSTS, SIZES, Chaos, Size, study
from lightning_noise.study import advisory, shared_database
from testing.postgres_server import binaries, running

SILENCE = 4  # seconds after which the server ends a silent connection


class Row(NamedTuple):
    """One study under attack."""

    seed: int
    processes: int
    runs: int
    begun: int
    redone: int
    kills: int
    parents: int
    workers: int
    pauses: int
    restarts: int
    taken_over: int
    stored: int
    duplicated: int
    lost: int
    same_tables: int
    seconds: int


def attack(seed: int, size: Size, reference: list[dict[str, Any]]) -> Row:
    """One study under attack, on a server of its own."""
    begin = time.monotonic()
    runs = len(reference)
    with running() as server, tempfile.TemporaryDirectory(prefix="chaos-") as name:
        url = server.create("chaos")
        attacked = Chaos(server, Path(name), url, seed, size)
        try:
            attacked.happen(runs)
        finally:
            attacked.end()
        begun = len(attacked.begun())
        same = [list(pickle.loads(path.read_bytes())) == reference for path in attacked.answers()]
        keys = "SELECT (value_json::json->'key')::text FROM trial_user_attributes WHERE key = 'run'"
        stored = [key for (key,) in server.ask(keys, "chaos")]
    found = len(set(stored))
    return Row(
        seed=seed,
        processes=HOSTS,
        runs=runs,
        begun=begun,
        redone=begun - found,
        **attacked.counts,
        taken_over=attacked.taken_over,
        stored=len(stored),
        duplicated=len(stored) - found,
        lost=runs - found,
        same_tables=sum(same),
        seconds=round(time.monotonic() - begin),
    )


def undisturbed(size: Size) -> list[dict[str, Any]]:
    """The table of one process."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        storage = str(folder / "study.journal")
        return list(study(folder, storage, 0, size._replace(dwell=0)).run().table)


def prepare() -> None:
    """A process from which others are forked: it has no threads, has imported what all of them
    need, and lets the server end a silent connection soon.
    """
    torch.set_num_threads(1)
    advisory.SILENCE = SILENCE
    shared_database.BEAT = SILENCE / 5
    shared_database.RETRY = 0.2
    RDBStorage("sqlite://").engine.dispose()


def measure(options: "Options", done: Done) -> Iterator[list[Row]]:
    """All missing seeds at the same time: a run mostly waits."""
    seeds = [seed for seed in range(1, options.seeds + 1) if (seed,) not in done]
    size = SIZES[options.size]
    if not seeds:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(seeds), context, prepare) as processes:
        reference = processes.submit(undisturbed, size).result()
        attacks = [processes.submit(attack, seed, size, reference) for seed in seeds]
        for found in as_completed(attacks):
            yield [found.result()]


def missing() -> str:
    """What is not installed here."""
    if binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install -e '.[postgres]'"
    return ""


def table(rows: Sequence[Row]) -> str:
    """A line for each seed."""
    lines = []
    for row in rows:
        killed = f"{row.kills} ({row.parents}, {row.workers})"
        paused = f"{row.pauses} ({row.taken_over})"
        happened = (killed, paused, str(row.restarts))
        counts = [row.begun, row.redone, row.stored, row.duplicated, row.lost]
        same = f"{row.same_tables} of {row.processes}"
        lines.append((str(row.seed), str(row.runs), *happened, *map(str, counts), same))
    happened = ("kills (parents, workers)", "pauses (taken over)", "restarts")
    counts = ("begun", "redone", "stored", "duplicated", "lost", "same tables")
    return markdown(("seed", "runs", *happened, *counts), lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    seeds: int = option(5, "studies, which run at the same time", extends=True)
    size: str = option("whole", "of a study and of what happens to it", choices=tuple(SIZES))


BENCHMARK = Benchmark(
    name="study_chaos",
    question="Does a shared study lose or repeat a run when processes and server are killed?",
    about=__doc__,
    row=Row,
    key=("seed",),
    measure=measure,
    options=Options(),
    quick=Options(seeds=1, size="tiny"),
    tables={"study chaos": table},
    minutes=5,
    needs="PostgreSQL",
    missing=missing,
    order=lambda row: row.seed,
)
