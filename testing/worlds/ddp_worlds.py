"""What the processes of a distributed test do; each function runs on every rank and returns plain
values.
"""

import contextlib
import io
import os
import warnings

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
)
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_noise import (
    GradientNoiseScale,
    Key,
    NoiseDDPStrategy,
    NoiseScaleMetric,
    NoiseStrategyMixin,
)
from testing import string_hook
from testing.gans import Gan, gan_data
from testing.reference import probes
from testing.toys import Regression, data, trainer

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "broadcast",
    "reduce",
    "barrier",
    "reduce_scatter",
)


class Frozen(Regression):
    """Weights that do not move, so that one process can recompute every gradient."""

    def __init__(self, width=6):
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.0), width=width)


def shard(sizes, *, dtype=torch.float32, seed=1, poison=None):
    """A loader of this rank's micro-batches: ``sizes[rank]`` lists their sizes, drawn in turn from
    one common stream.

    ``poison`` = (rank, index) makes one micro-batch infinite.
    """
    x, y = (t.to(dtype) for t in data(examples=400, seed=seed).dataset.tensors)
    batches, at = [], 0
    for index in range(len(sizes[0])):
        for rank in range(len(sizes)):
            size = sizes[rank][index]
            if rank == RANK:
                part = (x[at : at + size].clone(), y[at : at + size].clone())
                if poison == (rank, index):
                    part[1].fill_(torch.inf)
                batches.append(part)
            at += size
    return DataLoader(Listed(batches), batch_size=None)


class Listed(Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def measure(
    strategy,
    sizes,
    *,
    accumulate=1,
    module=None,
    noise=None,
    poison=None,
    dtype=torch.float64,
    **arguments,
):
    """One epoch under a strategy; the estimate, the state and what was printed."""
    arguments["precision"] = 64 if dtype == torch.float64 else 32
    callback = GradientNoiseScale(**(noise or {}))
    run = trainer(
        callback,
        strategy=strategy,
        devices=WORLD,
        accumulate=accumulate,
        use_distributed_sampler=False,
        barebones=False,
        **arguments,
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run.fit(Frozen() if module is None else module, shard(sizes, dtype=dtype, poison=poison))
    e = callback.estimate()
    return {
        "trace": e.noise,
        "grad_sq": e.signal,
        "steps": e.steps,
        "state": callback.state_dict(),
        "out": out.getvalue(),
    }


class Unused(Frozen):
    """One layer is never used, another only on rank 0."""

    def __init__(self):
        super().__init__()
        self.never, self.sometimes = nn.Linear(3, 3), nn.Linear(4, 1)

    def loss(self, batch):
        loss = super().loss(batch)
        return loss + self.sometimes(batch[0]).mean() if RANK == 0 else loss


class Silent(Frozen):
    """Logs nothing: ``self.log`` cannot be compiled."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class CompiledInside(Frozen):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(self.net, backend="aot_eager")

    def loss(self, batch):
        x, y = batch
        return (self.fast(x) - y).square().mean()


class MyDDPStrategy(DDPStrategy):
    """A user's strategy that registers a hook in its own way."""

    def _register_ddp_hooks(self):
        self.model.register_comm_hook([7], string_hook.counting_hook)


class Mine(NoiseStrategyMixin, MyDDPStrategy):
    pass


def equal_sizes(size, micro_batches):
    return [[size] * micro_batches] * WORLD


def estimates():
    """The same examples through every combination of strategy, probe and wrapping."""
    two = equal_sizes(4, 2)
    uneven = [[4, 2], [3, 5], [6, 1]][:WORLD]
    micro = {"noise": {"probe": "micro_batches"}}
    compiled = torch.compile(Silent(), backend="aot_eager")
    return {
        "plain": measure("ddp", two, accumulate=2),
        "mixin, micro-batches": measure("ddp_noise", two, accumulate=2, **micro),
        "mixin, ranks": measure("ddp_noise", two, accumulate=2),
        "mixin, ranks, uneven": measure("ddp_noise", uneven, accumulate=2),
        "plain, uneven": measure("ddp", uneven, accumulate=2),
        "ranks, 1 of 12": measure("ddp_noise", equal_sizes(12, 1)),
        "ranks, 2 of 6": measure("ddp_noise", interleaved(6, 2), accumulate=2),
        "ranks, 3 of 4": measure("ddp_noise", interleaved(4, 3), accumulate=3),
        "views": measure(NoiseDDPStrategy(gradient_as_bucket_view=True), two, accumulate=2),
        "examples": measure("ddp", two, accumulate=2, noise={"probe": "examples"}),
        "examples, mixin": measure("ddp_noise", two, accumulate=2, noise={"probe": "examples"}),
        "layers": measure("ddp_noise", two, accumulate=2, noise={"per_layer": True}),
        "unused": measure(
            "ddp_noise_find_unused_parameters_true", two, accumulate=2, module=Unused()
        ),
        "unused, plain": measure(
            "ddp_find_unused_parameters_true", two, accumulate=2, module=Unused(), noise={}
        ),
        "compiled inside": measure("ddp_noise", two, accumulate=2, module=CompiledInside()),
        "compiled around": measure("ddp_noise", two, accumulate=2, module=compiled),
        "own strategy": measure(Mine(), two, accumulate=2),
        "own strategy, hook calls": len(string_hook.CALLS),
        "large fp32": measure(
            "ddp_noise", equal_sizes(8, 1), module=Frozen(width=3000), dtype=torch.float32
        ),
        "many steps": measure("ddp", [[2] * 12] * WORLD, accumulate=2),
        "one rank overflows": measure("ddp", [[2] * 12] * WORLD, accumulate=2, poison=(1, 11)),
        "one rank overflows, ranks": measure(
            "ddp_noise", [[2] * 12] * WORLD, accumulate=2, poison=(1, 11)
        ),
    }


def interleaved(size, micro_batches):
    """Micro-batches whose union on each rank is that of one micro-batch of 12: blocks are dealt to
    a rank in one piece.
    """
    return [[size] * micro_batches] * WORLD


def weights_after_twenty_steps():
    """Weights, bit for bit: Lightning's DDP, the mixin alone, and both with the callback."""
    results = {}
    for name, strategy, noise in (
        ("ddp", "ddp", None),
        ("ddp and callback", "ddp", {}),
        ("mixin", "ddp_noise", None),
        ("mixin and callback", "ddp_noise", {}),
        ("mixin and layers", "ddp_noise", {"per_layer": True, "every_n_steps": 3}),
    ):
        L.seed_everything(5 + RANK, verbose=False)
        module = Regression(lambda p: torch.optim.Adam(p, lr=0.01), width=50)
        module.net.insert(1, nn.Dropout(0.2))
        callbacks = [] if noise is None else [GradientNoiseScale(**noise)]
        run = trainer(*callbacks, strategy=strategy, devices=WORLD, accumulate=2, epochs=5)
        run.fit(module, data(examples=32 * WORLD, shuffle=True))
        assert run.global_step == 20
        results[name] = [p.detach().clone() for p in module.parameters()] + [torch.get_rng_state()]
    return results


CALLS = []


def counting(state, bucket):
    CALLS.append(state)
    return default_hooks.fp16_compress_hook(None, bucket)


def user_hooks():
    """The user's own communication hooks run behind the tap, and the tap sees gradients before they
    are compressed.
    """
    two, results = equal_sizes(4, 1), {}
    results["none"] = measure("ddp_noise", two)
    results["counting fp16"] = measure(
        NoiseDDPStrategy(ddp_comm_state="my state", ddp_comm_hook=counting), two
    )
    results["calls"] = list(CALLS)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    results["powerSGD"] = measure(
        NoiseDDPStrategy(ddp_comm_state=state, ddp_comm_hook=powerSGD_hook.powerSGD_hook), two
    )
    results["powerSGD iterations"] = state.iter
    wrapped = NoiseDDPStrategy(
        ddp_comm_state=None,
        ddp_comm_hook=default_hooks.allreduce_hook,
        ddp_comm_wrapper=default_hooks.fp16_compress_wrapper,
    )
    results["wrapped"] = measure(wrapped, two)
    return results


def gan(strategy, probe="auto", **arguments):
    """A GAN whose weights do not move; every rank has every WORLD-th batch of the common stream."""
    batches = list(gan_data(dtype=torch.float64))[RANK::WORLD]
    callback = GradientNoiseScale(probe=probe)
    run = trainer(
        callback,
        strategy=strategy,
        devices=WORLD,
        accumulate=1,
        use_distributed_sampler=False,
        precision=64,
    )
    module = Gan(lr=0.0, **arguments).double()
    try:
        run.fit(module, DataLoader(Listed(batches), batch_size=None))
    except MisconfigurationException as error:
        return str(error)
    found = {name: callback.estimate(Key(optimizer=name)) for name in ("Adam", "Adam-1")}
    return {
        "probes": probes(callback),
        "skipped": {
            name: state["skipped"]
            for name, state in callback.state_dict()["session"]["tallies"].items()
        },
        **{name: (e.noise, e.signal, e.steps) for name, e in found.items()},
    }


def gans():
    """Manual optimization with two optimizers under DDP."""
    mixin = "ddp_noise_find_unused_parameters_true"
    return {
        "ddp": gan("ddp_find_unused_parameters_true"),
        "ddp, accumulated": gan("ddp_find_unused_parameters_true", accumulate=3),
        "mixin": gan(mixin),
        "mixin, untoggled": gan(mixin, toggle=False, order="gd"),
        "mixin, accumulated": gan(mixin, "ranks", accumulate=3),
        "mixin, stopped": gan(mixin, accumulate=3),
        "mixin, single examples": gan(mixin, "examples"),
    }


def refused(strategy, module=None, *, accumulate=2, **noise):
    try:
        measure(strategy, equal_sizes(2, 2), accumulate=accumulate, module=module, noise=noise)
    except MisconfigurationException as error:
        return str(error)
    return None


class BatchNorm(Frozen):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(6))


def warnings_and_refusals():
    subgroup = dist.new_group([RANK]) if dist.is_initialized() else None
    same = DataLoader(TensorDataset(*data(examples=16).dataset.tensors), batch_size=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(
            GradientNoiseScale(),
            strategy="ddp",
            devices=WORLD,
            accumulate=1,
            use_distributed_sampler=False,
        )
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run.fit(Frozen(), same)
    padded = trainer(GradientNoiseScale(), strategy="ddp", devices=WORLD, accumulate=1)
    out_padded = io.StringIO()
    with contextlib.redirect_stdout(out_padded):
        padded.fit(Frozen(), data(examples=4 * WORLD + 1))
    state = post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=subgroup, start_localSGD_iter=10
    )
    local_sgd = NoiseDDPStrategy(
        ddp_comm_state=state,
        ddp_comm_hook=post_localSGD_hook.post_localSGD_hook,
        model_averaging_period=2,
    )
    return {
        "same examples": out.getvalue(),
        "same examples, warned": [
            str(w.message) for w in caught if "same examples" in str(w.message)
        ],
        "padding": out_padded.getvalue(),
        "batch norm": measure("ddp_noise", equal_sizes(4, 2), module=BatchNorm())["out"],
        "ranks without the mixin": refused("ddp", probe="ranks"),
        "static graph": refused(NoiseDDPStrategy(static_graph=True)),
        "static graph without accumulation": refused(
            NoiseDDPStrategy(static_graph=True), accumulate=1
        ),
        "post-local SGD": refused(local_sgd),
    }


@contextlib.contextmanager
def counted():
    """Counts the collectives that Python code starts."""
    calls, real = [], {name: getattr(dist, name) for name in COLLECTIVES}
    for name, function in real.items():
        setattr(dist, name, lambda *a, _f=function, _n=name, **k: calls.append(_n) or _f(*a, **k))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def collectives():
    """Collectives of 40 steps, logged every 10, with and without the callback; and those of the
    metric.
    """
    results = {}
    for name, strategy, callbacks in (
        ("ddp", "ddp", []),
        ("ddp and callback", "ddp", [GradientNoiseScale()]),
        ("mixin", "ddp_noise", []),
        ("mixin and callback", "ddp_noise", [GradientNoiseScale()]),
    ):
        run = trainer(
            *callbacks,
            strategy=strategy,
            devices=WORLD,
            accumulate=1,
            log_every_n_steps=10,
            use_distributed_sampler=False,
        )
        with counted() as calls:
            run.fit(Frozen(), shard([[2] * 40] * WORLD))
        results[name] = {kind: calls.count(kind) for kind in COLLECTIVES if calls.count(kind)}
    metric = NoiseScaleMetric()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(100, WORLD, 5, generator=generator, dtype=torch.float64) + 0.5
    for step in range(100):
        own, mean = draws[step, RANK], draws[step].mean(dim=0)
        metric.update(
            (own @ own) / WORLD, (mean @ mean) / WORLD, 1 / (WORLD * 4), 1 / (WORLD**2 * 4)
        )
    with counted() as calls:
        results["metric"] = {name: float(value) for name, value in metric.compute().items()}
    results["metric collectives"] = list(calls)
    results["metric draws"] = draws
    return results


def everything():
    """All checks of one world in one start of its processes."""
    return {
        "estimates": estimates(),
        "weights": weights_after_twenty_steps(),
        "hooks": user_hooks(),
        "warnings": warnings_and_refusals(),
        "collectives": collectives(),
        "gans": gans(),
    }


def weights_only():
    """For a world of three."""
    return {
        "weights": weights_after_twenty_steps(),
        "estimates": {"uneven": measure("ddp_noise", [[4], [3], [6]])},
    }
