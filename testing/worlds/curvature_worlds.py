"""What each of two ranks does in ``test_curvature_ddp``."""

import os

import lightning as L
import torch
from torch.utils.data import DataLoader, Subset

from lightning_noise import GradientNoiseScale, Key
from testing.known_hessian import Endless, Still
from testing.toys import fit


def run(*callbacks, strategy="ddp_noise"):
    L.seed_everything(2)
    module = Still(torch.optim.Adam, lr=1e-3)
    own = range(int(os.environ["RANK"]), 960, 2)
    data = DataLoader(Subset(Endless(module.population, 960), own), batch_size=4)
    trainer = fit(
        module,
        data,
        *callbacks,
        accumulate=4,
        strategy=strategy,
        devices=2,
        use_distributed_sampler=False,
    )
    return trainer, [p.detach().clone() for p in module.parameters()]


def together():
    """Weights with and without, what is logged, and the numbers of a plain DDP run."""
    _, plain = run()
    callback = GradientNoiseScale(geometry=("hessian", "optimizer"), every_n_steps=2)
    trainer, measured = run(callback)
    other = GradientNoiseScale(geometry="optimizer", probe="micro_batches", every_n_steps=2)
    run(other, strategy="ddp")
    once = GradientNoiseScale(geometry="hessian", every_n_steps=1000)
    run(once)
    return {
        "first probe": once.session.curvatures["hessian"].state_dict()["windows"][0]["sums"],
        "identical": all(torch.equal(a, b) for a, b in zip(plain, measured, strict=True)),
        "weights": measured,
        "state": callback.state_dict()["session"],
        "logged": {
            name: float(v)
            for name, v in trainer.callback_metrics.items()
            if "hessian" in name or "b_optim" in name
        },
        "ranks": callback.estimate(Key("optimizer")),
        "micro_batches": other.estimate(Key("optimizer")),
    }
