"""What the processes of the tests of ``split`` do; runs on every rank and returns plain values."""

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_noise import GradientNoiseScale
from testing.splitting import Exact, exact_data, parameters
from testing.toys import fit

STRATEGIES = ("ddp", "ddp_noise")
EXAMPLES = {"whole": 64, "odd": 74, "few": 66}  # the last batch of a rank has 8, 5 and 1 of them


def everything():
    found = {}
    for strategy in STRATEGIES:
        for name, examples in EXAMPLES.items():
            runs = {
                "without": story(examples, {"probe": "micro_batches"}, strategy=strategy),
                "split": story(examples, {"split": 2}, strategy=strategy),
            }
            found[strategy, name] = runs
        smaller = {"strategy": strategy, "local_size": 4, "accumulate": 2}
        found[strategy, "whole"]["smaller"] = story(64, {}, **smaller)
    found["resumed"] = resumed()
    return found


def story(examples, arguments, *others, strategy, local_size=8, accumulate=1, **settings):
    """The weights, the estimate and what is left of the trainer."""
    L.seed_everything(4, verbose=False)
    module, callback = Exact(), GradientNoiseScale(**arguments, verbose=False)
    run = fit(
        module,
        exact_data(examples, local_size, shuffle=True),
        callback,
        *others,
        accumulate=accumulate,
        epochs=2,
        devices=2,
        strategy=strategy,
        **settings,
    )
    estimate = callback.estimate()
    return {
        "weights": parameters(module),
        "steps": run.global_step,
        "sizes": module.sizes,
        "estimate": (estimate.steps, estimate.noise, estimate.signal),
        "probe": callback.verdict().probe,
        "global size": callback.verdict().global_size,
        "left": (run.accumulate_grad_batches, run.num_training_batches),
    }


def resumed():
    """The weights of a whole run, and of one that goes on from the end of its first epoch."""
    folder = Path(os.environ["SPLIT_FOLDER"])
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", every_n_epochs=1)
    given = {"strategy": "ddp", "enable_checkpointing": True}
    whole = story(74, {"split": 2}, saver, **given)
    again = story(74, {"split": 2}, ckpt_path=folder / "epoch=0.ckpt", strategy="ddp")
    return {"whole": whole, "again": again}
