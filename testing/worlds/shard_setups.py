"""Sharded processes with loss scales, a user's strategy, split batches, Fabric, odd numbers of
ranks; runs on every rank and returns plain values.
"""

import warnings

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale
from lightning_noise.probes.sharding import own_piece
from testing.sharded import Block, Lora, Lora2, Net, Net2, Twice, Twice2, TwoPaths, fsdp, fsdp2
from testing.sharded_custom import (
    Deaf,
    FabricFSDP,
    NoiseReducing,
    NoiseSending,
    fsdp2_scaled,
    fsdp_scaled,
)
from testing.sharded_unusual import Columns2
from testing.toys import data, fit
from testing.worlds.ddp_worlds import RANK, WORLD
from testing.worlds.shard_runs import by_fabric, sgd
from testing.worlds.shard_worlds import EVEN, LAYERS, UNEVEN, measured

EIGHT = [[2] * 4] * WORLD
OVERFLOWS = 2.0**126  # the scaled gradient is more than fp32 holds


def under_fsdp():
    """Cases of FSDP, two steps of one micro-batch or one of several."""
    twice = {"accumulate": 2}
    own = NoiseSending(auto_wrap_policy={Block})
    half = fsdp_scaled(1024.0, "16-mixed")
    return {
        "scaled": measured(fsdp(), Net(), EVEN, **twice, plugins=fsdp_scaled(1024.0)),
        "scaled, fp16": measured(fsdp(), Net(), EVEN, **twice, plugins=half),
        "overflows": measured(fsdp(), Net(), EIGHT, plugins=fsdp_scaled(OVERFLOWS)),
        "own strategy": measured(own, Net(), EVEN, **twice),
        "own strategy, calls": own.calls,
        "low rank": measured(fsdp(), Lora(), EVEN, **twice),
        "called twice": measured(fsdp(), Twice(), EVEN, **twice, epochs=2),
        "two paths": measured(fsdp("SHARD_GRAD_OP"), TwoPaths(), EVEN, **twice),
        "four": measured(fsdp(), Net(), EIGHT, accumulate=4),
        "validated": measured(fsdp(), Net(), EIGHT, accumulate=4, **VALIDATED),
        "every tenth": measured(fsdp(), Net(sgd), LONG, noise={"every_n_steps": 10}),
        "deaf": measured(fsdp(), Net(), EVEN, noise={"probe": Deaf()}),
    }


def under_fsdp2():
    """The same of FSDP2."""
    twice = {"accumulate": 2}
    own = NoiseReducing()
    return {
        "scaled, fp16": measured(fsdp2(), Net2(), EVEN, **twice, plugins=fsdp2_scaled(1024.0)),
        "overflows": measured(fsdp2(), Net2(), EIGHT, plugins=fsdp2_scaled(OVERFLOWS)),
        "own strategy": measured(own, Net2(), EVEN, **twice),
        "own strategy, calls": own.summing.calls,
        "low rank": measured(fsdp2(), Lora2(), EVEN, **twice),
        "called twice": measured(fsdp2(), Twice2(), EVEN, **twice),
        "columns": measured(fsdp2(), Columns2(), EVEN, **twice),
        "four": measured(fsdp2(), Net2(), EIGHT, accumulate=4),
        "validated": measured(fsdp2(), Net2(), EIGHT, accumulate=4, **VALIDATED),
        "every tenth": measured(fsdp2(), Net2(sgd), LONG, noise={"every_n_steps": 10}),
        "deaf": measured(fsdp2(), Net2(), EVEN, noise={"probe": Deaf()}),
    }


LONG = [[2] * 20] * WORLD
VALIDATED = {"val": data(examples=8), "val_check_interval": 2}  # in the middle of a step


def split(strategy, module, examples, noise, *, local_size=8, accumulate=1):
    """Two epochs; on the ranks the last batch differs in length where ``examples`` do."""
    callback = GradientNoiseScale(**noise)
    x, y = data(examples=200).dataset.tensors
    own = TensorDataset(x[RANK::WORLD][: examples[RANK]], y[RANK::WORLD][: examples[RANK]])
    net = module(sgd)
    run = fit(
        net,
        DataLoader(own, batch_size=local_size),
        callback,
        accumulate=accumulate,
        epochs=2,
        strategy=strategy,
        devices=WORLD,
        use_distributed_sampler=False,
    )
    estimate = callback.estimate()
    return {
        "weights": [own_piece(p).detach().clone() for p in net.parameters()],
        "steps": run.global_step,
        "estimate": tuple(estimate) if estimate else None,
    }


SPLITS = {"whole": (32, 32), "odd": (37, 37), "few": (33, 33), "few on one rank": (33, 34)}


def splits():
    """With ``split=2``, without it, and with batches that are halved by hand."""
    found = {}
    for name, strategy, module in (("fsdp", fsdp, Net), ("fsdp2", fsdp2, Net2)):
        for case, examples in SPLITS.items():
            found[name, case] = {
                "split": split(strategy(), module, examples, {"split": 2}),
                "without": split(strategy(), module, examples, {}),
            }
        halved = split(strategy(), module, (32, 32), {}, local_size=4, accumulate=2)
        found[name, "whole"]["halved"] = halved
    return found


def two():
    """All checks of two ranks in one start of their processes."""
    fabric = FabricFSDP(auto_wrap_policy={Block})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = splits()
    return {
        "fsdp": under_fsdp(),
        "fsdp2": under_fsdp2(),
        "ddp": {"every tenth": measured("ddp", Net(sgd), LONG, noise={"every_n_steps": 10})},
        "fabric": by_fabric(fabric, Net()),
        "splits": found,
        "warnings": [str(warning.message) for warning in warned],
    }


def three():
    """Ranks that cannot share any layer evenly, with batches of different sizes."""
    twice = {"accumulate": 2}
    return {
        "fsdp": measured(fsdp(), Net(), UNEVEN, **twice, **LAYERS),
        "fsdp2": measured(fsdp2(ModelParallelStrategy), Net2(), UNEVEN, **twice, **LAYERS),
        "fsdp, not sharded": measured(fsdp("NO_SHARD"), Net(), UNEVEN, **twice, **LAYERS),
    }
