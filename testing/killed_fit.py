"""A fit with the flag that saves every few steps, for tests that kill it.

Run as ``python -m testing.killed_fit FOLDER``: it continues from the newest checkpoint there, and
at its end writes its history and weights to ``FOLDER/end.pt``.
"""

import sys
import time
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, LeastTime
from testing.toys import Regression, Resumable, data, fit

LAST = 600  # optimizer steps
EVERY = 7  # optimizer steps between checkpoints


class Slow(L.Callback):
    """Leaves time for a kill."""

    def on_train_batch_end(self, *_):
        time.sleep(0.002)


def newest(folder: Path) -> Path | None:
    """The checkpoint with the most steps."""
    found = sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    return found[-1] if found else None


def train(folder: Path) -> None:
    """From the newest checkpoint to the end."""
    torch.set_num_threads(1)
    policy = LeastTime(waste=2.0, step_time=(64.0, 1.0))
    callback = GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(policy, every=20))
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=EVERY, save_top_k=-1)
    module = Regression()
    loader = Resumable(data(examples=512).dataset, batch_size=4)
    fit(
        module,
        loader,
        callback,
        saver,
        Slow(),
        enable_checkpointing=True,
        epochs=1000,
        max_steps=LAST,
        accumulate=1,
        ckpt_path=newest(folder),
    )
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    state = callback.state_dict()
    torch.save((state["adaptation"]["history"], weights), folder / "end.pt")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
