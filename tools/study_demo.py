"""Three processes share a study on a PostgreSQL server, and one of them is killed.

    python tools/study_demo.py

It starts a server of its own in a temporary folder, if the system has PostgreSQL
(``apt-get install postgresql``), runs ``lightning-noise study`` with this file three times, kills
one of the processes, and shows what ``lightning-noise status`` reports meanwhile and the table.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lightning_noise.report.table import read_table
from lightning_noise.study import BatchSizeStudy, Search
from testing import cheap
from testing.postgres_server import Server, binaries, running

HOSTS = 3
COMMAND = [sys.executable, "-m", "lightning_noise"]


def make_study(quick: bool) -> BatchSizeStudy:
    """Linear regression at five batch sizes: about 70 runs of a fraction of a second."""
    trials = 16
    if quick:
        trials = 8
    return cheap.study(None, search=Search(trials=trials, seeds=3), name="demo")


def start(folder: Path, url: str, number: int) -> subprocess.Popen:
    """One process, as on a machine of its own."""
    table = folder / f"table-{number}.csv"
    call = [*COMMAND, "study", __file__, "--quick", "--storage", url, "--csv", str(table)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        call,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )


def stored(server: Server) -> list[str]:
    """The runs in the database."""
    tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'trial_user_attributes'"
    if server.ask(tables, "demo")[0][0] == 0:
        return []
    keys = "SELECT (value_json::json->'key')::text FROM trial_user_attributes WHERE key = 'run'"
    return [key for (key,) in server.ask(keys, "demo")]


def show_status(url: str) -> None:
    """What any machine can ask."""
    print("\n$ lightning-noise status", url, flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*COMMAND, "status", url], env=environment, check=True)


def show(table: Path) -> None:
    """One line for each batch size and goal: the winner and its reruns."""
    print(f"\n{'goal':18} {'global size':>11} {'best rate':>10}  steps of the reruns")
    steps: dict[tuple[str, int], list[str]] = {}
    rates = {}
    for row in read_table(table):
        where = (row["goal"], row["global_size"])
        if row["phase"] == "rerun":
            steps.setdefault(where, []).append(f"{row['steps'] or float('nan'):.1f}")
        elif row["best"]:
            rates[where] = row["learning_rate"]
    for where, found in steps.items():
        print(f"{where[0]:18} {where[1]:11} {rates[where]:10.3f}  {', '.join(found)}")


def main() -> None:
    if binaries() is None:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql")
    with running() as server, tempfile.TemporaryDirectory() as name:
        url = server.create("demo")
        folder = Path(name)
        print(f"PostgreSQL runs at {url}; starting {HOSTS} processes")
        hosts = [start(folder, url, number) for number in range(HOSTS)]
        while len(stored(server)) < 10:
            time.sleep(0.2)
        show_status(url)
        hosts[0].send_signal(signal.SIGKILL)
        print(f"\nprocess {hosts[0].pid} was killed; the others go on")
        said = [host.communicate()[0] for host in hosts[1:]]
        show_status(url)
        tables = [(folder / f"table-{number}.csv").read_bytes() for number in range(1, HOSTS)]
        runs = stored(server)
        print(f"\n{len(runs)} runs are stored, {len(runs) - len(set(runs))} of them twice; the")
        print(f"tables of the {len(tables)} processes are equal: {len(set(tables)) == 1}")
        show(folder / "table-1.csv")
        print(f"\n{said[0]}")


if __name__ == "__main__":
    main()
