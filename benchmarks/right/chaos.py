"""A study that several processes share in a database, and what happens to them."""

import multiprocessing
import os
import pickle
import random
import signal
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise.study import BatchSizeStudy, Budget, Goal, LogUniform, Search, Workers
from testing.postgres_server import Server

HOSTS = 4
WITH_WORKER = HOSTS - 1  # the number of the process that has a worker process
PAUSE = 10.0  # seconds
DEADLINE = 500.0
CURVATURE = torch.tensor([1.0, 0.5, 0.25, 0.125])


class Size(NamedTuple):
    """A study and what happens to it.

    Args:
        dwell: seconds that a run takes besides its steps.
        kills: of the processes that train themselves; ``parents`` of the one with a worker, and
            ``workers`` of this worker.
    """

    sizes: tuple[int, ...]
    search: Search
    dwell: float
    kills: int
    parents: int
    workers: int
    pauses: int
    restarts: int


SIZES = {
    "whole": Size(
        sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        search=Search(trials=10, seeds=6, widen=0),
        dwell=0.4,
        kills=20,
        parents=2,
        workers=1,
        pauses=2,
        restarts=2,
    ),
    "tiny": Size(
        sizes=(64,),
        search=Search(trials=4, seeds=2, widen=0),
        dwell=0.2,
        kills=1,
        parents=0,
        workers=0,
        pauses=0,
        restarts=1,
    ),
}


class Line(NamedTuple):
    """A run that was begun."""

    pid: int
    run: tuple[str, ...]


class Quadratic(L.LightningModule):
    """Loss ½ Σ h θ² with gradient noise of variance h/B."""

    def __init__(self, folder: str, dwell: float, learning_rate: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.folder = folder
        self.dwell = dwell
        self.rate = learning_rate
        self.theta = torch.nn.Parameter(torch.ones(4))

    def on_train_start(self) -> None:
        """Notes that the run has begun, in one write."""
        run = f"{self.trainer.train_dataloader.batch_size} {os.environ['PL_GLOBAL_SEED']}"
        with Path(self.folder, "begun").open("ab", buffering=0) as file:
            file.write(f"{os.getpid()} {run} {self.rate!r}\n".encode())
        time.sleep(self.dwell)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """One step of SGD; gives the expected loss before it."""
        (count,) = batch
        theta = self.theta.detach()
        loss = (CURVATURE * theta.square()).sum() / 2
        noise = CURVATURE.sqrt() * torch.randn(4) / len(count) ** 0.5
        self.theta.grad = CURVATURE * theta + noise
        self.optimizers().step()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def make_module(folder: str, dwell: float, parameters: dict[str, float]) -> Quadratic:
    return Quadratic(folder, dwell, **parameters)


def make_data(global_size: int, seed: int) -> DataLoader:  # noqa: ARG001 # the noise has it
    data = TensorDataset(torch.zeros(64 * global_size))
    return DataLoader(data, batch_size=global_size, drop_last=True)


def study(folder: Path, storage: str, workers: int, size: Size) -> BatchSizeStudy:
    """Some 200 runs of about half a second, where it is whole."""
    return BatchSizeStudy(
        partial(make_module, str(folder), size.dwell),
        make_data,
        Goal(metric="loss", target=0.05, on="train", smoothing=0),
        size.sizes,
        search_space={"learning_rate": LogUniform(0.02, 1.5)},
        budget=Budget(steps=150),
        search=size.search,
        workers=Workers(count=workers),
        storage=storage,
        noise_scale=False,
        progress=False,
    )


def host(folder: Path, url: str, workers: int, size: Size, answer: Path) -> None:
    """One process: works until the study is complete, and leaves its table."""
    table = study(folder, url, workers, size).run().table
    answer.write_bytes(pickle.dumps(table))


class Chaos:
    """The processes of a study, and what happens to them."""

    def __init__(self, server: Server, folder: Path, url: str, seed: int, size: Size) -> None:
        self.counts = dict.fromkeys(("kills", "parents", "workers", "pauses", "restarts"), 0)
        self.taken_over = 0
        self._server = server
        self._folder = folder
        self._url = url
        self._size = size
        self._random = random.Random(seed)
        self._paused: dict[int, tuple[float, int]] = {}  # host → when it goes on, lines before
        self._processes: list[BaseProcess] = []
        for number in range(HOSTS):
            self._processes.append(self._start(number))

    def begun(self) -> list[Line]:
        """Every run that was begun, in order."""
        file = self._folder / "begun"
        if not file.exists():
            return []
        lines = []
        for line in file.read_text().splitlines():
            pid, *run = line.split()
            lines.append(Line(int(pid), tuple(run)))
        return lines

    def happen(self, runs: int) -> None:
        """Everything that happens, each at a random moment of the first nine tenths of the runs.

        Ends early with the process that has started this one.
        """
        size, parent = self._size, multiprocessing.parent_process()
        events = [self._kill] * size.kills + [self._kill_parent] * size.parents
        events += [self._kill_worker] * size.workers
        events += [self._pause] * size.pauses + [self._restart] * size.restarts
        self._random.shuffle(events)
        moments = sorted(self._random.uniform(0.02, 0.9) * runs for _ in events)
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and not self._finished():
            if parent is not None and not parent.is_alive():
                return
            self._tend()
            if events and len(self.begun()) >= moments[0]:
                moments.pop(0)
                time.sleep(self._random.uniform(0, 0.3))
                events.pop()()
            time.sleep(0.05)

    def end(self) -> None:
        """Ends every process."""
        for process in self._processes:
            process.kill()
            process.join()

    def answers(self) -> list[Path]:
        """The tables of the processes that have ended."""
        return [self._answer(number) for number in range(HOSTS) if self._answer(number).exists()]

    def _answer(self, number: int) -> Path:
        return self._folder / f"table-{number}"

    def _start(self, number: int) -> BaseProcess:
        workers = int(number == WITH_WORKER)
        process = multiprocessing.get_context("fork").Process(
            target=host,
            args=(self._folder, self._url, workers, self._size, self._answer(number)),
        )
        process.start()
        return process

    def _finished(self) -> bool:
        return len(self.answers()) == HOSTS

    def _tend(self) -> None:
        """Starts what has died, and lets go on what was paused for long enough."""
        now = time.monotonic()
        for number, (until, before) in list(self._paused.items()):
            if now > until:
                pid = self._processes[number].pid or 0
                self._note_taken_over(pid, before)
                os.kill(pid, signal.SIGCONT)
                del self._paused[number]
        for number, process in enumerate(self._processes):
            if not process.is_alive() and not self._answer(number).exists():
                process.join()
                self._processes[number] = self._start(number)

    def _note_taken_over(self, pid: int, before: int) -> None:
        lines = self.begun()
        own = [line.run for line in lines[:before] if line.pid == pid]
        others = [line.run for line in lines[before:] if line.pid != pid]
        if own and own[-1] in others:
            self.taken_over += 1

    def _victim(self, numbers: list[int]) -> int | None:
        alive = []
        for number in numbers:
            if self._processes[number].is_alive() and number not in self._paused:
                alive.append(number)
        if not alive:
            return None
        return self._random.choice(alive)

    def _kill(self) -> None:
        number = self._victim(list(range(WITH_WORKER)))
        if number is not None:
            os.kill(self._processes[number].pid or 0, signal.SIGKILL)
            self.counts["kills"] += 1

    def _kill_parent(self) -> None:
        if self._victim([WITH_WORKER]) is not None:
            os.kill(self._processes[WITH_WORKER].pid or 0, signal.SIGKILL)
            self.counts["kills"] += 1
            self.counts["parents"] += 1

    def _kill_worker(self) -> None:
        worker = self._worker_of(self._processes[WITH_WORKER].pid or 0)
        if worker is not None:
            os.kill(worker, signal.SIGKILL)
            self.counts["kills"] += 1
            self.counts["workers"] += 1

    def _worker_of(self, parent: int) -> int | None:
        """The worker process that has begun a run last."""
        for line in reversed(self.begun()):
            stat = Path(f"/proc/{line.pid}/stat")
            if stat.exists() and int(stat.read_text().split()[3]) == parent:
                return line.pid
        return None

    def _pause(self) -> None:
        number = self._victim(list(range(WITH_WORKER)))
        if number is None:
            return
        os.kill(self._processes[number].pid or 0, signal.SIGSTOP)
        self._paused[number] = (time.monotonic() + PAUSE, len(self.begun()))
        self.counts["pauses"] += 1

    def _restart(self) -> None:
        self._server.stop("immediate")
        time.sleep(self._random.uniform(0, 1))
        self._server.start()
        self.counts["restarts"] += 1
