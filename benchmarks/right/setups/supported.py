"""The set-ups that must be supported."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from benchmarks.right.setups.kinds import (
    BF16,
    FP16,
    FP64,
    ByHand,
    Normalised,
    Penalised,
    Setup,
    accumulating,
    exact,
    splitting,
    two_ranks,
)
from lightning_noise import Examples
from testing.gans import Gan
from testing.models import Backbone, Checkpointed, CompiledInside, Silent, Words, words
from testing.sharded import Net, Net2, Tied, Tied2, fsdp, fsdp2
from testing.toys import Regression, data
from testing.without_float64 import OnCpuWithoutFloat64
from testing.worlds.ddp_worlds import shard
from testing.worlds.twin_worlds import TwinRegression


def adam(**arguments: Any) -> Callable[[], Regression]:
    return lambda: Regression(lambda p: torch.optim.Adam(p, lr=0.01, **arguments))


def scaled(init_scale: float = 1024.0, **arguments: Any) -> Callable[[], dict[str, Any]]:
    """precision="16-mixed" with its GradScaler on the CPU, where Lightning turns to
    bf16 by itself.
    """

    def make() -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        return {
            "plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)],
            "accumulate": 2,
            **arguments,
        }

    return make


class Spare(Regression):
    """A layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(3, 3)


def uneven() -> dict[str, Any]:
    return {"accumulate": 3, "loader": shard([[4, 2, 6, 1, 8, 3, 5, 2, 4]])}


def trained(kind: Callable[..., Net], **shard: Any) -> Callable[[], Net]:
    """Makes a module of ``testing.sharded`` whose weights move."""
    return lambda: kind(lambda p: torch.optim.SGD(p, lr=0.05), **shard)


UNEVEN = [[4, 2, 5, 3], [3, 5, 2, 6]]
SUPPORTED = (
    Setup("one device, one batch a step", "GradientNoiseScale()", options=accumulating(1)),
    Setup(
        "the same, several positions an example, sketched norms",
        "GradientNoiseScale()",
        Words,
        accumulating(1, loader=words),
        sketched=True,
    ),
    Setup(
        "the same, exact norms",
        "probe=Examples(exact=True)",
        Words,
        accumulating(1, loader=words),
        noise=exact,
    ),
    Setup("a batch in two", "GradientNoiseScale(split=2)", noise=splitting(2)),
    Setup("a batch in four", "GradientNoiseScale(split=4)", noise=splitting(4)),
    Setup(
        "BatchNorm, a batch in two",
        "GradientNoiseScale(split=2)",
        Normalised,
        lambda: {"loader": data(local_size=16)},
        splitting(2),
    ),
    Setup(
        "a weight penalty in the loss, a batch in two",
        "GradientNoiseScale(split=2)",
        Penalised,
        noise=splitting(2),
    ),
    Setup(
        "a batch in two and accumulation of 2",
        "GradientNoiseScale(split=2), Trainer(accumulate_grad_batches=2)",
        options=accumulating(2),
        noise=splitting(2),
    ),
    Setup("accumulation of 2", "Trainer(accumulate_grad_batches=2)", options=accumulating(2)),
    Setup("accumulation of 4", "Trainer(accumulate_grad_batches=4)", options=accumulating(4)),
    Setup(
        "short last window",
        "14 batches, accumulate_grad_batches=3",
        options=accumulating(3, limit_train_batches=14),
    ),
    Setup("micro-batches of different sizes", "accumulate_grad_batches=3", options=uneven),
    Setup(
        "single examples and accumulation", "probe='examples'", options=accumulating(2), noise=exact
    ),
    Setup(
        "fp64",
        'Trainer(precision="64-true")',
        options=accumulating(2, precision="64-true"),
        bound=FP64,
    ),
    Setup(
        "bf16-mixed",
        'Trainer(precision="bf16-mixed")',
        options=accumulating(2, precision="bf16-mixed"),
        bound=BF16,
    ),
    Setup(
        "bf16-mixed, single examples",
        'Trainer(precision="bf16-mixed")',
        options=accumulating(1, precision="bf16-mixed"),
        noise=exact,
        bound=BF16,
    ),
    Setup(
        "bf16-true",
        'Trainer(precision="bf16-true")',
        options=accumulating(2, precision="bf16-true"),
        bound=BF16,
    ),
    Setup("16-mixed", 'Trainer(precision="16-mixed")', options=scaled(), bound=FP16),
    Setup(
        "16-mixed, fused Adam",
        "torch.optim.Adam(fused=True)",
        adam(fused=True),
        scaled(),
        bound=FP16,
    ),
    Setup(
        "16-mixed, overflow steps",
        "GradScaler(init_scale=2**26)",
        options=scaled(2.0**26, epochs=4),
        bound=FP16,
    ),
    Setup(
        "16-mixed, gradient clipping",
        "Trainer(gradient_clip_val=1e-3)",
        options=scaled(gradient_clip_val=1e-3),
        bound=FP16,
    ),
    Setup("foreach Adam", "torch.optim.Adam(foreach=True)", adam(foreach=True), accumulating(2)),
    Setup(
        "gradient clipping",
        "Trainer(gradient_clip_val=1e-3)",
        options=accumulating(2, gradient_clip_val=1e-3),
    ),
    Setup(
        "activation checkpointing",
        "checkpoint(…, use_reentrant=False)",
        lambda: Checkpointed(False),
        accumulating(2),
        plain=Checkpointed,
    ),
    Setup(
        "the same, reentrant, of a layer used twice",
        "checkpoint(…, use_reentrant=True)",
        lambda: Checkpointed(True),
        accumulating(2),
        plain=Checkpointed,
        passed_over=1,
    ),
    Setup(
        "torch.compile around the module",
        "torch.compile(module, backend='aot_eager')",
        # a compiled module is typed as a function
        lambda: torch.compile(Silent(), backend="aot_eager"),  # type: ignore[return-value]
        accumulating(2),
        plain=Regression,
    ),
    Setup(
        "torch.compile inside",
        "self.net = torch.compile(net, backend='aot_eager')",
        lambda: CompiledInside("aot_eager"),
        accumulating(2),
        plain=Regression,
    ),
    Setup(
        "torch.compile inside, single examples",
        "probe=Examples(exact=True, eager=True), every_n_steps=1",
        lambda: CompiledInside("aot_eager"),
        noise=lambda: {"probe": Examples(exact=True, eager=True), "every_n_steps": 1},
        plain=Regression,
    ),
    Setup(
        "a device without float64, as MPS is (the CPU stands in for it)",
        "Trainer(accelerator='mps')",
        options=accumulating(2),
        callbacks=lambda: [OnCpuWithoutFloat64()],
    ),
    Setup(
        "a device without float64, single examples",
        "Trainer(accelerator='mps')",
        noise=lambda: {"probe": Examples(exact=True)},
        callbacks=lambda: [OnCpuWithoutFloat64()],
    ),
    Setup(
        "sparse embedding, repeated words",
        "nn.Embedding(sparse=True)",
        lambda: Words(sparse=True),
        accumulating(2, loader=words),
        plain=Words,
    ),
    Setup(
        "parameters unfrozen on the way",
        "BackboneFinetuning",
        Backbone,
        accumulating(2, epochs=3),
        callbacks=lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
    ),
    Setup(
        "validation in mid-epoch",
        "Trainer(val_check_interval=4)",
        options=accumulating(2, val=data, val_check_interval=4),
    ),
    Setup(
        "pytorch_lightning",
        "import pytorch_lightning as pl; pl.Trainer(accumulate_grad_batches=2)",
        lambda: TwinRegression(learning_rate=0.05),
        accumulating(2, package=pl),
        plain=Regression,
    ),
    Setup("two ranks, DDP as it is", 'Trainer(strategy="ddp")', options=two_ranks("ddp"), ranks=2),
    Setup(
        "the same with accumulation",
        "accumulate_grad_batches=2",
        options=two_ranks("ddp", accumulate=2),
        ranks=2,
    ),
    Setup(
        "the same, batches of different sizes",
        'Trainer(strategy="ddp")',
        options=two_ranks("ddp", UNEVEN),
        ranks=2,
    ),
    Setup(
        "the same, single examples",
        "probe='examples'",
        options=two_ranks("ddp"),
        noise=exact,
        ranks=2,
    ),
    Setup(
        "two ranks, buckets",
        'Trainer(strategy="ddp_noise")',
        options=two_ranks("ddp_noise"),
        ranks=2,
    ),
    Setup(
        "the same with accumulation",
        "accumulate_grad_batches=2",
        options=two_ranks("ddp_noise", accumulate=2),
        ranks=2,
    ),
    Setup(
        "the same, batches of different sizes",
        'strategy="ddp_noise"',
        options=two_ranks("ddp_noise", UNEVEN),
        ranks=2,
    ),
    Setup(
        "the same, parameters not used",
        'strategy="ddp_noise_find_unused_parameters_true"',
        Spare,
        two_ranks("ddp_noise_find_unused_parameters_true"),
        ranks=2,
    ),
    Setup(
        "the same, bf16-mixed",
        'Trainer(precision="bf16-mixed")',
        options=two_ranks("ddp_noise", precision="bf16-mixed"),
        bound=BF16,
        ranks=2,
    ),
    Setup(
        "the same, pytorch_lightning",
        'pl.Trainer(strategy="ddp_noise")',
        lambda: TwinRegression(learning_rate=0.05),
        two_ranks("ddp_noise", package=pl),
        plain=Regression,
        ranks=2,
    ),
    Setup(
        "two ranks, FSDP2",
        "ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)",
        trained(Net2),
        two_ranks(fsdp2),
        plain=trained(Net),
        ranks=2,
    ),
    Setup(
        "the same with accumulation",
        "accumulate_grad_batches=2",
        trained(Net2),
        two_ranks(fsdp2, accumulate=2),
        plain=trained(Net),
        ranks=2,
    ),
    Setup(
        "the same, batches of different sizes",
        'Trainer(strategy="model_parallel_noise")',
        trained(Net2),
        two_ranks("model_parallel_noise", UNEVEN),
        plain=trained(Net),
        ranks=2,
    ),
    Setup(
        "the same, tied parameters",
        'Trainer(strategy="model_parallel_noise")',
        trained(Tied2),
        two_ranks("model_parallel_noise"),
        plain=trained(Tied),
        ranks=2,
    ),
    Setup(
        "the same, compute and reduction in bf16",
        "fully_shard(…, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16))",
        trained(Net2, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16)),
        two_ranks("model_parallel_noise"),
        bound=BF16,
        plain=trained(Net),
        ranks=2,
    ),
    Setup(
        "two ranks, FSDP",
        'Trainer(strategy="fsdp_noise"); on GPUs strategy="fsdp" as well',
        trained(Net),
        two_ranks(fsdp),
        ranks=2,
    ),
    Setup(
        "the same with accumulation",
        "accumulate_grad_batches=2",
        trained(Net),
        two_ranks(fsdp, accumulate=2),
        ranks=2,
    ),
    Setup(
        "the same, gradients and optimizer sharded only",
        "sharding_strategy='SHARD_GRAD_OP'",
        trained(Net),
        two_ranks(partial(fsdp, "SHARD_GRAD_OP")),
        ranks=2,
    ),
    Setup(
        "the same, nothing sharded",
        "sharding_strategy='NO_SHARD'",
        trained(Net),
        two_ranks(partial(fsdp, "NO_SHARD")),
        ranks=2,
    ),
    Setup(
        "the same, batches of different sizes",
        "Trainer(strategy=NoiseFSDPStrategy(auto_wrap_policy={Block}))",
        trained(Net),
        two_ranks(fsdp, UNEVEN),
        ranks=2,
    ),
)
BY_HAND = (
    ByHand(
        "GAN, single examples", "two optimizers, toggle_optimizer", Gan, "examples", exact, 1e-4
    ),
    ByHand(
        "the same in fp64", 'Trainer(precision="64-true")', Gan, "examples", exact, 1e-9, "64-true"
    ),
    ByHand(
        "GAN without toggling",
        "two optimizers",
        lambda: Gan("gd", toggle=False),
        "examples",
        exact,
        1e-9,
        "64-true",
    ),
    ByHand(
        "GAN, steps over 2 batches",
        "zero_grad and step every second batch",
        lambda: Gan(accumulate=2),
        "batches",
        lambda: {"probe": "micro_batches"},
        1e-9,
        "64-true",
    ),
    ByHand(
        "GAN, 3 steps of the critic a batch",
        "as in WGAN",
        lambda: Gan(critic_steps=3),
        "examples",
        exact,
        1e-9,
        "64-true",
    ),
)
