"""Whole runs of sharded processes: weights, collectives, known answers, hosts without a Trainer."""

import contextlib
import io
from collections import Counter

import lightning as L
import pytorch_lightning as pl
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy as FabricModelParallel
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from lightning_noise import GradientNoiseScale, Key, Monitor
from lightning_noise.hosts.distributed import sum_over_ranks
from lightning_noise.hosts.fabric import FabricNoiseScale
from lightning_noise.probes.sharding import own_piece
from testing.reference import session
from testing.sharded import Net, Net2, fsdp, fsdp2
from testing.sharded_unusual import Slope
from testing.toys import data, trainer
from testing.worlds.ddp_worlds import RANK, WORLD, shard
from testing.worlds.shard_worlds import EVEN, ddp, measured, refusals, under_fsdp, under_fsdp2
from testing.worlds.twin_worlds import TwinRegression

NAMES = ("ddp", "fsdp_noise", "model_parallel_noise")


def by_fabric(strategy, module):
    """Moments of one step of two micro-batches in a loop with Fabric."""
    fabric = Fabric(accelerator="cpu", devices=WORLD, strategy=strategy)
    fabric.launch()
    model = fabric.setup_module(module.net)
    optimizer = fabric.setup_optimizers(torch.optim.SGD(model.parameters(), lr=0.0))
    noise = FabricNoiseScale(fabric, model, optimizer, accumulation=2)
    moments = []
    noise.session.observe(lambda reading: moments.append(tuple(reading.moments)))
    with noise.open():
        for index, (x, y) in enumerate(shard(EVEN)):
            noise.batch((x, y))
            noise.backward((model(x) - y).square().mean() / 2, last=index == 1)
        noise.session.read()
    return moments


def by_loop():
    """The same in a plain loop, with FSDP2."""
    net, moments = Net().net, []
    fully_shard(net[2])
    fully_shard(net)
    monitor = Monitor(module=net, accumulation=2, replicas=WORLD, rank=RANK, reduce=sum_over_ranks)
    monitor.observe(lambda reading: moments.append(tuple(reading.moments)))
    with monitor.attach(dict(net.named_parameters())):
        for x, y in shard(EVEN):
            with monitor.micro_batch(size=len(x), weight=1 / 2):
                (net(x) - y).square().mean().div(2).backward()
        monitor.step()
        monitor.flush()
    return moments


def trajectories():
    """Three epochs in which weights move, every second step measured: hooks come and go."""
    settings = {"accumulate": 2, "epochs": 3, "noise": {"every_n_steps": 2}}
    runs = {
        "ddp": ("ddp", Net(sgd)),
        "fsdp2": (fsdp2(), Net2(sgd)),
        "fsdp2, kept gathered": (fsdp2(), Net2(sgd, reshard_after_forward=False)),
        "fsdp": (fsdp(), Net(sgd)),
        "fsdp, gradients sharded": (fsdp("SHARD_GRAD_OP"), Net(sgd)),
        "fsdp, not sharded": (fsdp("NO_SHARD"), Net(sgd)),
    }
    sizes = [[4] * 8] * WORLD
    return {name: measured(*run, sizes, **settings)["moments"][""] for name, run in runs.items()}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def known_answer(strategy):
    """The 99.99 % interval (four standard errors) after 200 steps of 16 examples."""
    callback = GradientNoiseScale()
    x = torch.randn(3200, 10, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), batch_size=8)
    with contextlib.redirect_stdout(io.StringIO()):
        run = trainer(callback, strategy=strategy, devices=WORLD, accumulate=1)
        run.fit(Slope(), loader)
    return session(callback).estimate(Key(), 0.9999)


def parallelize(module, mesh):
    """What Fabric's strategy calls in the place of configure_model."""
    fully_shard(module[2], mesh=mesh["data_parallel"])
    return fully_shard(module, mesh=mesh["data_parallel"])


def other_hosts():
    """Hosts without a Trainer."""
    strategy = FabricModelParallel(parallelize, data_parallel_size=WORLD, tensor_parallel_size=1)
    return {"fabric": by_fabric(strategy, Net()), "loop": by_loop()}


def trained(strategy, module, noise):
    """Weights after ten steps in which examples, dropout and the learning rate differ."""
    L.seed_everything(5 + RANK, verbose=False)
    module.net.insert(2, nn.Dropout(0.2))
    callbacks = [] if noise is None else [GradientNoiseScale(**noise)]
    run = trainer(*callbacks, strategy=strategy, devices=WORLD, accumulate=2, epochs=5)
    run.fit(module, data(examples=16 * WORLD, shuffle=True))
    assert run.global_step == 10
    pieces = [own_piece(p).detach().clone() for p in module.parameters()]
    return [*pieces, torch.get_rng_state()]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def weights():
    """Weights and random state, bit for bit, without the callback and with it."""
    layers = {"per_layer": True, "every_n_steps": 3}
    found = {}
    for name, noise in {"without": None, "with": {}, "layers": layers}.items():
        found[f"fsdp2 {name}"] = trained(fsdp2(), Net2(adam), noise)
        found[f"fsdp {name}"] = trained(fsdp(), Net(adam), noise)
    return found


def collectives():
    """Collectives of 20 steps, logged every 10th, without the callback and with it."""
    found = {}
    for name, strategy, module in (("fsdp2", fsdp2, Net2), ("fsdp", fsdp, Net)):
        for callbacks in ([], [GradientNoiseScale()]):
            run = trainer(
                *callbacks,
                strategy=strategy(),
                devices=WORLD,
                accumulate=1,
                log_every_n_steps=10,
                use_distributed_sampler=False,
            )
            with counted() as calls:
                run.fit(module(), shard([[2] * 20] * WORLD))
            found[name, bool(callbacks)] = Counter(calls)
    return found


@contextlib.contextmanager
def counted():
    """Names of the operations that torch's process groups carry out, whoever starts them."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        calls = []
        yield calls
    calls += [event.name for event in profiler.events() if event.name.startswith("c10d::")]


def two():
    """All checks of one world in one start of its processes."""
    return {
        "fsdp2": under_fsdp2(),
        "fsdp": under_fsdp(),
        "ddp": ddp(),
        "refusals": refusals(),
        "weights": weights(),
        "collectives": collectives(),
        "other hosts": other_hosts(),
        "trajectories": trajectories(),
        "known answer": {name: known_answer(name) for name in NAMES},
        "twin": measured("fsdp_noise", TwinRegression(), EVEN, accumulate=2, package=pl),
    }
