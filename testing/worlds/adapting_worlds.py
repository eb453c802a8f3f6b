"""What the processes of the adaptive tests do; runs on every rank and returns plain values."""

import contextlib
import io
import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale, LeastTime
from testing.adapting import Keeper, Numbered, Script, Stream, adapting, numbered, run
from testing.toys import trainer

RANK = int(os.environ.get("RANK", 0))
GROW = {8: 16, 16: 32, 32: 12}  # local 4, 8, 16, 6 on two ranks


class Kept(Keeper):
    """Notes the epoch of the sampler, and hands out loaders that Lightning copies for
    every rank.
    """

    def train_dataloader(self):
        return numbered(shuffle=True)

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            self.sampler_epochs = (
                *getattr(self, "sampler_epochs", ()),
                self.trainer.train_dataloader.sampler.epoch,
            )


class OneRank:
    """A policy that must be asked on rank 0 alone."""

    def __call__(self, estimate, global_size):
        if RANK != 0:
            raise AssertionError("asked on another rank")
        return Script(GROW)(estimate, global_size)


class Timing(LeastTime):
    """Needs the clock, and is asked on rank 0 alone."""

    def decide(self, estimate, global_size, situation):
        return OneRank()(estimate, global_size)


def story(module, callback, *arguments, **settings):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        fitted = run(module, callback, *arguments, devices=2, **settings)
    return {
        "out": out.getvalue(),
        "sizes": module.sizes(),
        "accumulation": [kept["accumulation"] for kept in module.epochs.values()],
        "totals": module.totals(),
        "numbers": module.numbers(),
        "state": callback.state_dict(),
        "left": (fitted.accumulate_grad_batches, fitted.reload_dataloaders_every_n_epochs),
        "weights": [p.detach().clone() for p in module.parameters()],
    }


def everything():
    found = {}
    for strategy in ("ddp", "ddp_noise"):
        module = Kept()
        callback = GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(OneRank()))
        found[strategy] = story(module, callback, strategy=strategy)
        found[strategy]["sampler epochs"] = module.sampler_epochs
    timing = GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(Timing()))
    found["clock"] = story(Kept(), timing, strategy="ddp")
    loader = numbered()
    found["passed"] = story(
        Keeper(), adapting(GROW, max_local_size=8), loader, strategy="ddp_noise"
    )
    found["passed"]["loader"] = loader.batch_size
    own = DataLoader(
        Numbered(), batch_size=4, sampler=DistributedSampler(Numbered(), shuffle=False)
    )
    found["own sampler"] = story(
        Keeper(), adapting(GROW), own, strategy="ddp", use_distributed_sampler=False
    )
    found["own sampler"]["loader"] = own.batch_size
    stream = DataLoader(Stream(48), batch_size=4)
    found["stream"] = story(Keeper(), adapting(GROW), stream, strategy="ddp")
    workers = numbered(num_workers=1, persistent_workers=True)
    found["workers"] = story(Keeper(), adapting(GROW), workers, strategy="ddp", epochs=2)
    found["inside"] = inside()
    found["inside, resumed"] = inside(step=6)
    found["other prefetch"] = inside(workers=2 * RANK, saves=False)
    found["static graph"] = refusal(
        adapting(GROW), strategy=L.pytorch.strategies.DDPStrategy(static_graph=True)
    )
    found["policy fails"] = refusal(
        GradientNoiseScale(adaptive_batch_size=lambda estimate, size: 1 // 0), strategy="ddp"
    )
    found["resumed"] = resumed()
    return found


class Batches(Keeper):
    """Notes the examples of every batch, from a shuffled loader."""

    def __init__(self, workers):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        return DataLoader(Numbered(192), batch_size=4, shuffle=True, num_workers=self.workers)

    def batches(self):
        return [batch[0] for kept in self.epochs.values() for batch in kept["batches"]]


def inside(step=None, workers=1, *, saves=True):
    """Two epochs whose batch size changes inside the first one; from a checkpoint with ``step``."""
    folder = Path(os.environ["ADAPTING_FOLDER"]) / "inside"
    savers, path = [], None
    if step is not None:
        path = folder / f"step={step}.ckpt"
    elif saves:
        savers = [ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1, filename="{step}")]
    module, callback = Batches(workers), adapting({8: 16, 16: 32}, every=3)
    arguments = {"devices": 2, "strategy": "ddp", "enable_checkpointing": bool(savers)}
    again = trainer(callback, *savers, epochs=2, accumulate=1, **arguments)
    again.fit(module, ckpt_path=path)
    return {
        "batches": module.batches(),
        "totals": module.totals(),
        "state": callback.state_dict(),
        "weights": [p.detach().clone() for p in module.parameters()],
    }


def refusal(callback, **settings):
    try:
        run(Kept(), callback, devices=2, **settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def resumed():
    """The state after an epoch's checkpoint, loaded in a new run; the folder is the same on both
    ranks.
    """
    folder = Path(os.environ["ADAPTING_FOLDER"])
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", every_n_epochs=1)
    torch.manual_seed(0)
    run(
        Kept(),
        adapting(GROW),
        devices=2,
        strategy="ddp",
        callbacks=[saver],
        enable_checkpointing=True,
    )
    module, callback = Kept(), adapting(GROW)
    again = trainer(callback, epochs=4, accumulate=1, devices=2, strategy="ddp")
    again.fit(module, ckpt_path=folder / "epoch=1.ckpt")
    return {
        "state": callback.state_dict(),
        "sizes": module.sizes(),
        "weights": [p.detach().clone() for p in module.parameters()],
    }
