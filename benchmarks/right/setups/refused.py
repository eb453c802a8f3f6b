"""The set-ups that must be refused."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytorch_lightning as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook
from torch.utils.data import DataLoader

from benchmarks.right.setups.kinds import (
    Normalised,
    Penalised,
    Refused,
    two_ranks,
)
from lightning_noise import NoiseDDPStrategy
from lightning_noise.hosts.lightning.refusals import REFUSALS
from testing.gans import Gan, Joint, Wrong, gan_data
from testing.sharded import Net2, fsdp2
from testing.sharded_unusual import ByMethod2, Divided2, Outside2
from testing.toys import Regression, data
from testing.worlds.twin_worlds import TwinRegression


class ByFrequency(Regression):
    """Gradients that depend on the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(4, 6, scale_grad_by_freq=True))


class Synchronised(Regression):
    """SyncBatchNorm, for GPUs only."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.SyncBatchNorm(6))


def local_sgd() -> NoiseDDPStrategy:
    state = post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=None, start_localSGD_iter=10
    )
    return NoiseDDPStrategy(
        ddp_comm_state=state,
        ddp_comm_hook=post_localSGD_hook.post_localSGD_hook,
        model_averaging_period=2,
    )


class Numbers(L.LightningDataModule):
    """A data module of ``lightning``."""

    def train_dataloader(self) -> DataLoader:
        return data()


def mixed() -> dict[str, Any]:
    return {"package": pl, "loader": Numbers()}


def named() -> dict[str, Any]:
    return {"probe": "examples"}


def named_shards() -> dict[str, Any]:
    return {"probe": "shards"}


def by_itself() -> dict[str, Any]:
    return {"loader": gan_data}


def unknown() -> tuple[Any, Any]:
    kind = type("MyStrategy", (), {})
    return SimpleNamespace(strategy=kind(), world_size=2), None


def deepspeed() -> tuple[Any, Any]:
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    return SimpleNamespace(strategy=strategy, world_size=2), None


class Elsewhere(FSDPStrategy):
    """Computes on a GPU that is not here."""

    root_device = torch.device("cuda", 0)


def offloaded() -> tuple[Any, Any]:
    return SimpleNamespace(strategy=Elsewhere.__new__(Elsewhere), world_size=2), Regression()


REFUSED = (
    Refused("a data module of the other package", "two packages", lambda: TwinRegression(), mixed),
    Refused("no optimizer", "no optimizer", lambda: Regression(lambda _: None)),
    Refused("LBFGS", "LBFGS", lambda: Regression(lambda p: torch.optim.LBFGS(p, lr=0.1))),
    Refused(
        "SyncBatchNorm",
        "SyncBatchNorm",
        stand_in=lambda: (SimpleNamespace(world_size=2), Synchronised()),
    ),
    Refused("post-local SGD", "post-local SGD", options=two_ranks(local_sgd), ranks=2),
    Refused(
        "static_graph with accumulation",
        "static_graph with accumulation",
        options=two_ranks(lambda: NoiseDDPStrategy(static_graph=True), accumulate=2),
        ranks=2,
    ),
    Refused("a strategy that is not known", "strategy", stand_in=unknown),
    Refused("DeepSpeed", "DeepSpeed", stand_in=deepspeed),
    Refused(
        "tensor parallelism",
        "tensor parallelism",
        Net2,
        two_ranks(partial(fsdp2, tensor_parallel_size=2)),
        ranks=2,
    ),
    Refused("CPU offload to a GPU's host", "CPU offload", stand_in=offloaded),
    Refused(
        "a parameter outside of FSDP2's modules", module=Outside2, options=two_ranks(fsdp2), ranks=2
    ),
    Refused(
        "a module of FSDP2 used by another method than forward",
        module=ByMethod2,
        options=two_ranks(fsdp2),
        noise=named_shards,
        ranks=2,
    ),
    Refused("set_gradient_divide_factor", module=Divided2, options=two_ranks(fsdp2), ranks=2),
    Refused(
        "single examples under FSDP2",
        module=Net2,
        options=two_ranks(fsdp2),
        noise=lambda: {"probe": "examples"},
        ranks=2,
    ),
    Refused(
        "geometry='hessian' under FSDP2",
        module=Net2,
        options=two_ranks(fsdp2, accumulate=4),
        noise=lambda: {"geometry": "hessian"},
        ranks=2,
    ),
    Refused(
        "geometry='optimizer' under FSDP2",
        module=Net2,
        options=two_ranks(fsdp2),
        noise=lambda: {"geometry": "optimizer"},
        ranks=2,
    ),
    Refused(
        "two backward passes over one batch for one step",
        module=lambda: Wrong("two passes"),
        options=by_itself,
        noise=named,
    ),
    Refused(
        "one backward pass for two steps that share parameters",
        module=lambda: Joint(shared=True),
        noise=named,
    ),
    Refused(
        "a gradient zeroed in part",
        module=lambda: Wrong("zeroed in part"),
        options=by_itself,
        noise=named,
    ),
    Refused(
        "loss.backward() in place of manual_backward",
        module=lambda: Wrong("loss.backward"),
        options=by_itself,
        noise=named,
    ),
    Refused("one batch a step, an embedding scaled by frequency", module=ByFrequency),
    Refused("one batch a step, BatchNorm", module=Normalised),
    Refused(
        "one batch a step, a weight penalty in the loss",
        module=Penalised,
        noise=named,
    ),
    Refused(
        "split=2 and an odd batch size",
        options=lambda: {"loader": data(local_size=5)},
        noise=lambda: {"split": 2},
    ),
    Refused(
        "split=2 and manual optimization", module=Gan, options=by_itself, noise=lambda: {"split": 2}
    ),
    Refused("one batch a step of one example", options=lambda: {"loader": data(local_size=1)}),
    Refused("probe='micro_batches' without accumulation", noise=lambda: {"probe": "micro_batches"}),
    Refused("probe='ranks' on one device", noise=lambda: {"probe": "ranks"}),
    Refused(
        "probe='ranks' under plain DDP",
        options=two_ranks("ddp"),
        noise=lambda: {"probe": "ranks"},
        ranks=2,
    ),
    Refused("batch_size_fn that returns 0", noise=lambda: {"batch_size_fn": lambda _: 0}),
    Refused(
        "a batch without a tensor",
        options=lambda: {
            "loader": DataLoader(["a", "b"], collate_fn=lambda items: {"text": items[0]})
        },
    ),
)


def unlisted() -> set[str]:
    """Rules of ``hosts/lightning/refusals.py`` that no row shows."""
    return {rule.name for rule in REFUSALS} - {setup.rule for setup in REFUSED}
