"""One training run twice, with Fabric and with a Trainer, on every rank of a world."""

import torch
from lightning.fabric import Fabric

from lightning_noise import GradientNoiseScale
from lightning_noise.hosts.fabric import FabricNoiseScale
from testing.toys import Regression, trainer
from testing.worlds.ddp_worlds import RANK, WORLD, shard

SIZES = [[4, 4, 6, 2, 4, 4, 4, 8] * 2, [4, 2, 4, 4, 4, 6, 4, 4] * 2]


def by_fabric(probe, accumulation, *, dtype=torch.float64, **arguments):
    """Estimate and weights of a loop with Fabric."""
    arguments = arguments or {"precision": "64-true"}
    strategy = "ddp" if WORLD > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=WORLD, strategy=strategy, **arguments)
    fabric.launch()
    module = Regression()
    model, optimizer = fabric.setup(module, module.configure_optimizers())
    model.mark_forward_method("loss")
    noise = FabricNoiseScale(fabric, model, optimizer, accumulation=accumulation, probe=probe)
    with noise.open():
        for index, batch in enumerate(shard(SIZES[:WORLD], dtype=dtype)):
            last = (index + 1) % accumulation == 0
            noise.batch(batch)
            with fabric.no_backward_sync(model, enabled=not last):
                noise.backward(model.loss(batch) / accumulation, last=last)
            if last:
                optimizer.step()
                optimizer.zero_grad()
        noise.session.read()
    return noise.session.estimate(), [p.detach().clone() for p in module.parameters()]


def by_trainer(probe, accumulation):
    """The same with a Trainer."""
    module, callback = Regression(), GradientNoiseScale(probe)
    strategy = "ddp" if WORLD > 1 else "auto"
    arguments = {
        "strategy": strategy,
        "devices": WORLD,
        "use_distributed_sampler": False,
        "precision": "64-true",
    }
    run = trainer(callback, accumulate=accumulation, **arguments)
    run.fit(module, shard(SIZES[:WORLD], dtype=torch.float64))
    return callback.estimate(), [p.detach().clone() for p in module.parameters()]


def both():
    """By number of micro-batches per step."""
    found = {}
    for accumulation in (1, 2):
        for name, way in (("trainer", by_trainer), ("fabric", by_fabric)):
            estimate, weights = way("auto", accumulation)
            found[accumulation, name] = (tuple(estimate), weights)
    return {"rank": RANK, "found": found}
