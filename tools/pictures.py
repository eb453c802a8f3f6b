"""The pictures of runs that the documentation shows, made from runs of examples/digits.py.

    python tools/pictures.py run docs/images/run.png
    python tools/pictures.py tensorboard docs/images/tensorboard.png
    python tools/pictures.py runs docs/images/tensorboard_runs.png

The first is the last picture that the callback wrote for TensorBoard. The others are TensorBoard's
page *custom scalars* for one run and, in its dark mode, for five short ones at different batch
sizes, as Chromium shows it; they need Chromium.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "examples" / "digits.py"
FIGURE = "noise_scale/figure"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = "custom_scalars"
LIGHT, DARK = "false", "true"
SIZES = (8, 16, 32, 64, 128)
FEW_EPOCHS = 8


def train(folder: Path, *options: str) -> Path:
    """Trains the example; the folder of its event files."""
    folder.mkdir(exist_ok=True)
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, PROGRAM, "--quiet", "--logdir", folder, *options]
    subprocess.run(command, check=True, env=settings, cwd=folder)
    (run,) = (folder / "digits").iterdir()
    return run


def last_figure(run: Path) -> bytes:
    """The last picture in the event files of a run, as PNG."""
    found = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    last: bytes = found.Images(FIGURE)[-1].encoded_image_string
    return last


def screenshot(logs: Path, picture: Path, dark: str = LIGHT, seconds: float = 20.0) -> None:
    """TensorBoard's page *custom scalars* for a folder of logs.

    Args:
        logs: the folder.
        picture: the file to write.
        dark: of TensorBoard's address: whether it is in dark mode.
        seconds: of the browser's clock, until the page is taken.

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"Install one of {', '.join(BROWSERS)}: the page is shown by a browser.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", logs, "--port", str(port)]
    server = subprocess.Popen(board, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        look = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        look += ["--window-size=1200,560", f"--virtual-time-budget={1000 * seconds:.0f}"]
        address = f"http://127.0.0.1:{port}/?darkMode={dark}#{PAGE}"
        look += [f"--screenshot={picture}", address]
        subprocess.run(look, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not _answers(port) and time.monotonic() < end:
        time.sleep(0.5)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "tensorboard", "runs"])
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs, picture = Path(folder), args.picture.resolve()
        if args.what == "run":
            picture.write_bytes(last_figure(train(logs)))
        elif args.what == "tensorboard":
            train(logs)
            screenshot(logs, picture)
        else:
            for size in SIZES:
                options = ("--batch-size", str(size), "--epochs", str(FEW_EPOCHS))
                train(logs / f"batch size {size}", *options)
            screenshot(logs, picture, DARK)


if __name__ == "__main__":
    main()
