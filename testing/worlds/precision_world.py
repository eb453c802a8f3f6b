"""What the processes of the overflow test do."""

import os

import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_noise import GradientNoiseScale
from testing.reference import Recorder, skipped
from testing.toys import Regression, data, fit

WORLD = int(os.environ.get("WORLD_SIZE", 1))


def scaler(init_scale=1024.0, **arguments):
    """precision="16-mixed" with a scaler that works on the CPU, where Lightning would
    turn to bf16.
    """
    return MixedPrecision(
        "16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=init_scale, **arguments)
    )


def overflow():
    """A loss scale far too high, brought down by the scaler step by step while this rank trains on
    its share.
    """
    results = {}
    for strategy in ("ddp", "ddp_noise"):
        callback = GradientNoiseScale()
        recorder = Recorder(callback)
        plugin = scaler(2.0**30)
        module = Regression(lambda p: torch.optim.SGD(p, lr=0.05), width=48)
        loader = data(examples=256 * WORLD, local_size=4)
        fit(module, loader, callback, recorder, strategy=strategy, devices=WORLD, plugins=[plugin])
        results[strategy] = {
            "moments": recorder.moments,
            "steps": recorder.steps,
            "state": callback.state_dict(),
            "skipped": dict(skipped(callback)),
            "scale": plugin.scaler.get_scale(),
            "weights": [p.detach().clone() for p in module.parameters()],
        }
    return results
