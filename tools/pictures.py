"""The pictures of a run that the documentation shows, made from a run of examples/digits.py.

    python tools/pictures.py run docs/images/run.png
    python tools/pictures.py tensorboard docs/images/tensorboard.png

The first is the last picture that the callback wrote for TensorBoard. The second is TensorBoard's
page *custom scalars*, as Chromium shows it; it needs Chromium.
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


def train(folder: Path) -> Path:
    """Trains the example; the folder of its event files."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, PROGRAM, "--quiet", "--logdir", folder]
    subprocess.run(command, check=True, env=settings, cwd=folder)
    (run,) = (folder / "digits").iterdir()
    return run


def last_figure(run: Path) -> bytes:
    """The last picture in the event files of a run, as PNG."""
    found = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    last: bytes = found.Images(FIGURE)[-1].encoded_image_string
    return last


def screenshot(logs: Path, picture: Path, seconds: float = 20.0) -> None:
    """TensorBoard's page *custom scalars* for a folder of logs.

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
        look += [f"--screenshot={picture}", f"http://127.0.0.1:{port}/#{PAGE}"]
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
    parser.add_argument("what", choices=["run", "tensorboard"])
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder))
        if args.what == "run":
            args.picture.write_bytes(last_figure(run))
        else:
            screenshot(Path(folder), args.picture.resolve())


if __name__ == "__main__":
    main()
