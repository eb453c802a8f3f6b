"""What the processes of the sharded tests do; runs on every rank and returns plain values."""

import contextlib
import io

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from lightning_noise import GradientNoiseScale
from lightning_noise.probes.examples.hooks import ModuleHook
from testing.reference import probes, session
from testing.sharded import (
    Block,
    Checkpointed,
    Checkpointed2,
    Frozen,
    Frozen2,
    Net,
    Net2,
    Reentrant2,
    Tied,
    Tied2,
    Unused,
    Unused2,
    fsdp,
    fsdp2,
)
from testing.sharded_unusual import (
    ByMethod2,
    CompiledAround2,
    CompiledUnit2,
    Divided2,
    FlatNet,
    Grouped2,
    Halves2,
    Ignored2,
    Manual2,
    Meta2,
    Outside2,
    OwnCommunication2,
    ReducesLast2,
    Silent,
)
from testing.toys import trainer
from testing.worlds.ddp_worlds import WORLD, shard


class Moments(L.Callback):
    """Keeps the moments of every step, by layer; stands after the noise scale."""

    def __init__(self, noise):
        self.noise, self.moments = noise, {}

    def on_train_start(self, *_):
        session(self.noise).observe(self.take)

    def take(self, reading):
        self.moments.setdefault(reading.key.layer, []).append(tuple(reading.moments))


def measured(
    strategy, module, sizes, *, noise=None, accumulate=1, poison=None, val=None, **arguments
):
    """The moments of one epoch, and what else there is to compare."""
    callback = GradientNoiseScale(**(noise or {}))
    moments = Moments(callback)
    run = trainer(
        callback,
        moments,
        strategy=strategy,
        devices=WORLD,
        accumulate=accumulate,
        use_distributed_sampler=False,
        **arguments,
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run.fit(module, shard(sizes, poison=poison), val)
    return {
        "moments": moments.moments,
        "probes": probes(callback),
        "state": callback.state_dict(),
        "out": out.getvalue(),
        "left": hooks_left(module),
    }


def hooks_left(module):
    """Hooks of the measurement on modules, and on the tensors of FSDP2 that are gathered anew."""
    found = 0
    for part in module.modules():
        found += sum(isinstance(h, ModuleHook) for h in part._forward_pre_hooks.values())
        if isinstance(part, FSDPModule):
            part.unshard()
            found += sum(len(p._backward_hooks or ()) for p in part.parameters())
            part.reshard()
    return found


def interrupted(strategy, module):
    """Hooks that are left after an error in the second forward pass, with the unit's hooks on."""

    def fail(*_):
        if run.fit_loop.epoch_loop.batch_idx == 1:
            raise RuntimeError("stopped by the test")

    callback, settings = GradientNoiseScale(), {"devices": WORLD, "use_distributed_sampler": False}
    run = trainer(callback, strategy=strategy, **settings)
    module.net[1].register_forward_hook(fail)
    try:
        run.fit(module, shard(EVEN))
    except RuntimeError as error:
        return hooks_left(module), str(error)
    return "not interrupted"


EVEN = [[4, 4]] * WORLD
UNEVEN = [[4, 2], [3, 5], [6, 1], [2, 4]][:WORLD]
LAYERS = {"noise": {"per_layer": True}}
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
BF16_FP32 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
FP16 = MixedPrecisionPolicy(reduce_dtype=torch.float16)


def under_fsdp2():
    """Cases of FSDP2; each has two batches on every rank."""
    twice = {"accumulate": 2}
    own = OwnCommunication2()
    offload = CPUOffloadPolicy(pin_memory=False)
    return {
        "one batch per step": measured(fsdp2(), Net2(), EVEN),
        "accumulated": measured(fsdp2(), Net2(), EVEN, **twice),
        "uneven": measured(fsdp2(), Net2(), UNEVEN, **twice),
        "layers": measured(fsdp2(), Net2(), EVEN, **twice, **LAYERS),
        "kept gathered": measured(fsdp2(), Net2(reshard_after_forward=False), EVEN, **twice),
        "frozen": measured(fsdp2(), Frozen2(), EVEN, **twice),
        "tied": measured(fsdp2(), Tied2(), EVEN, **twice),
        "unused": measured(fsdp2(), Unused2(), EVEN, **twice),
        "checkpointed": measured(fsdp2(), Checkpointed2(), EVEN, **twice),
        "reentrant": measured(fsdp2(), Reentrant2(), EVEN, **twice),
        "meta device": measured(fsdp2(), Meta2(), EVEN, **twice),
        "reduced last": measured(fsdp2(), ReducesLast2(), EVEN, **twice),
        "offloaded": measured(fsdp2(), Net2(offload_policy=offload), EVEN, **twice),
        "clipped": measured(fsdp2(), Net2(), EVEN, **twice, gradient_clip_val=1e-3),
        "manual": measured(fsdp2(), Manual2(), EVEN, accumulate=1),
        "bf16, reduced in bf16": measured(fsdp2(), Net2(mp_policy=BF16), EVEN, **twice),
        "bf16, reduced in fp32": measured(fsdp2(), Net2(mp_policy=BF16_FP32), EVEN, **twice),
        "reduced in fp16": measured(fsdp2(), Net2(mp_policy=FP16), EVEN, **twice),
        "by name": measured("model_parallel_noise", Net2(), EVEN, **twice),
        "overflow": measured(fsdp2(), Net2(), [[2] * 4] * WORLD, poison=(1, 3)),
        "interrupted": interrupted(fsdp2(), Net2()),
        "grouped": measured(fsdp2(), Grouped2(), EVEN, **twice),
        "compiled unit": measured(fsdp2(), CompiledUnit2(), EVEN, **twice),
        "compiled around": measured(fsdp2(), CompiledAround2(), EVEN, **twice),
        "own communication": measured(fsdp2(), own, EVEN, **twice),
        "own communication, calls": own.summing.calls,
    }


def under_fsdp():
    """Cases of FSDP."""
    twice = {"accumulate": 2}
    again = {"activation_checkpointing_policy": {Block}}
    by_value = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    return {
        "one batch per step": measured(fsdp(), Net(), EVEN),
        "accumulated": measured(fsdp(), Net(), EVEN, **twice),
        "by name": measured("fsdp_noise", Net(), EVEN, **twice),
        "overflow": measured(fsdp(), Net(), [[2] * 4] * WORLD, poison=(1, 3)),
        "compiled": measured(fsdp(), torch.compile(Silent(), backend="aot_eager"), EVEN, **twice),
        "uneven": measured(fsdp(), Net(), UNEVEN, **twice),
        "layers": measured(fsdp(), Net(), EVEN, **twice, **LAYERS),
        "gradients sharded": measured(fsdp("SHARD_GRAD_OP"), Net(), EVEN, **twice),
        "not sharded": measured(fsdp("NO_SHARD"), Net(), EVEN, **twice),
        "frozen": measured(fsdp(), Frozen(), EVEN, **twice),
        "tied": measured(fsdp(), Tied(), EVEN, **twice),
        "unused": measured(fsdp(), Unused(), EVEN, **twice),
        "checkpointed": measured(fsdp(**again), Net(), EVEN, **twice),
        "checkpointed inside": measured(fsdp(), Checkpointed(), EVEN, **twice),
        "clipped": measured(fsdp(), Net(), EVEN, **twice, **by_value),
        "flat parameters": measured(fsdp(use_orig_params=False), FlatNet(), EVEN, **twice),
    }


def refused(strategy, module, **arguments):
    """What an attempt is answered."""
    try:
        measured(strategy, module, EVEN, **arguments)
    except MisconfigurationException as error:
        return str(error)
    return "measured"


def refusals():
    """Set-ups that are refused, each in its first step at the latest."""
    return {
        "by method": refused(fsdp2(), ByMethod2(), noise={"probe": "shards"}),
        "outside": refused(fsdp2(), Outside2()),
        "ignored": refused(fsdp2(), Ignored2()),
        "divided": refused(fsdp2(), Divided2()),
        "examples": refused(fsdp2(), Net2(), noise={"probe": "examples"}),
        "micro_batches": refused(fsdp(), Net(), noise={"probe": "micro_batches"}),
        "hessian": refused(fsdp2(), Net2(), noise={"geometry": "hessian"}, accumulate=2),
        "optimizer": refused(fsdp(), Net(), noise={"geometry": "optimizer"}),
        "shards under ddp": refused("ddp", Net(), noise={"probe": "shards"}),
    }


def four():
    """Replicas of shards, among four ranks."""
    twice = {"accumulate": 2}
    hybrid, zero2 = "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2"
    return {
        "fsdp2": measured(fsdp2(), Net2(), EVEN, **twice),
        "fsdp2, hybrid": measured(fsdp2(), Net2(replicas=2), EVEN, **twice, **LAYERS),
        "fsdp2, hybrid, uneven": measured(fsdp2(), Net2(replicas=2), UNEVEN, **twice),
        "fsdp": measured(fsdp(), Net(), EVEN, **twice),
        "fsdp, hybrid": measured(fsdp(hybrid, device_mesh=(2, 2)), Net(), EVEN, **twice, **LAYERS),
        "fsdp, hybrid, uneven": measured(fsdp(hybrid, device_mesh=(2, 2)), Net(), UNEVEN, **twice),
        "fsdp, hybrid zero 2": measured(fsdp(zero2, device_mesh=(2, 2)), Net(), EVEN, **twice),
        "tensor parallel": refused(fsdp2(tensor_parallel_size=2), Net2()),
        "other ranks": refused(fsdp2(), Halves2()),
    }


def ddp():
    """The same examples without shards."""
    return {
        "one batch per step": measured("ddp", Net(), EVEN),
        "accumulated": measured("ddp", Net(), EVEN, accumulate=2, **LAYERS),
    }
