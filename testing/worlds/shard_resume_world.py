"""What sharded processes do that adapt the batch size, stop and resume."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from lightning_noise import GradientNoiseScale, NoiseFSDPStrategy
from lightning_noise.probes.sharding import own_piece
from testing.adapting import Keeper, adapting, numbered
from testing.sharded import Net, Net2, fsdp2
from testing.toys import data, trainer
from testing.worlds.ddp_worlds import WORLD

FOLDER = Path(os.environ.get("SHARD_FOLDER", "."))
EXAMPLES = 6 * 2 * 4 * 2  # of six steps over two micro-batches of four examples on two ranks
GROW = {8: 16, 16: 32, 32: 12}  # local 4, 8, 16, 6 on two ranks


class Kept(Keeper):
    """Hands out loaders that Lightning copies for every rank."""

    def train_dataloader(self):
        return numbered(shuffle=True)


class Kept2(Kept):
    """Sharded by FSDP2."""

    def configure_model(self):
        fully_shard(self.layer)


def fsdp(kind):
    return NoiseFSDPStrategy(state_dict_type=kind)


def parallel(kind):
    return fsdp2(ModelParallelStrategy, save_distributed_checkpoint=kind == "sharded")


CASES = {
    "fsdp, sharded": (fsdp, "sharded", Kept, Net),
    "fsdp2, sharded": (parallel, "sharded", Kept2, Net2),
    "fsdp2, full": (parallel, "full", Kept2, Net2),
}


def pieces(module):
    return [own_piece(p).detach().clone() for p in module.parameters()]


def adapted(name):
    """Four epochs whose batch size follows a script; then the last two of them once more."""
    strategy, kind, module, _ = CASES[name]
    folder = FOLDER / f"adapted {name}"
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", every_n_epochs=1)
    found = {}
    for when, path in (("whole", None), ("resumed", folder / "epoch=1.ckpt")):
        torch.manual_seed(0)
        kept, callback = module(adam), adapting(GROW)
        callbacks = [callback, saver] if path is None else [callback]
        fitted = trainer(
            *callbacks,
            strategy=strategy(kind),
            devices=WORLD,
            epochs=4,
            accumulate=1,
            enable_checkpointing=path is None,
        )
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            fitted.fit(kept, ckpt_path=path)
        found[when] = {
            "sizes": kept.sizes(),
            "numbers": kept.numbers(),
            "state": callback.state_dict(),
            "weights": pieces(kept),
            "out": out.getvalue(),
        }
    return found


def resumed(name):
    """Two epochs of six steps, and the second one once more from the checkpoint of the first."""
    strategy, kind, _, module = CASES[name]
    folder = FOLDER / f"resumed {name}"
    found = {}
    for when in ("whole", "resumed"):
        net, callback = module(adam), GradientNoiseScale()
        saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", every_n_epochs=1)
        whole = when == "whole"
        callbacks = [callback, saver] if whole else [callback]
        fitted = trainer(
            *callbacks,
            strategy=strategy(kind),
            devices=WORLD,
            epochs=2,
            accumulate=2,
            enable_checkpointing=whole,
        )
        path = None if whole else folder / "epoch=0.ckpt"
        fitted.fit(net, data(examples=EXAMPLES), ckpt_path=path)
        found[when] = {"state": callback.state_dict(), "weights": pieces(net)}
    return found


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def two():
    """All checks of one world in one start of its processes."""
    return {
        "adapted": {name: adapted(name) for name in CASES},
        "resumed": {name: resumed(name) for name in CASES},
    }


def one():
    """A sharded checkpoint of two ranks, taken up by one."""
    callback, module = GradientNoiseScale(), Net2(adam)
    fitted = trainer(callback, strategy=parallel("sharded"), devices=1, epochs=2, accumulate=4)
    path = FOLDER / "resumed fsdp2, sharded" / "epoch=0.ckpt"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fitted.fit(module, data(examples=EXAMPLES), ckpt_path=path)
    return {
        "steps": callback.estimate().steps,
        "probe": callback.session.tracks[0].offer.reason,
        "warnings": [str(warning.message) for warning in warned],
    }
