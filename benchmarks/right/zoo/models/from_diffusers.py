"""Models of Hugging Face diffusers, from small configurations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Batch, Entry
from benchmarks.right.zoo.tasks import CLASSES


def of_class(kind: str, **settings: Any) -> Callable[[], nn.Module]:
    """A class of diffusers."""

    def build() -> nn.Module:
        import diffusers

        return getattr(diffusers, kind)(**settings)

    return build


def entry(
    name: str,
    build: Callable[[], nn.Module],
    draw: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
) -> Entry:
    return Entry(name, "diffusers", build, draw, loss)


def noisy(*shape: int) -> Callable[[int], Batch]:
    """Noisy images, their times, classes, captions, and the noise to be found."""

    def draw(n: int) -> Batch:
        images, times = torch.randn(n, *shape), torch.randint(1000, (n,))
        captions = torch.randn(n, 7, 32)
        return images, times, torch.randint(CLASSES, (n,)), captions, torch.randn(n, *shape)

    return draw


def unconditional(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0], batch[1]).sample, batch[-1])


def by_class(model: nn.Module, batch: Batch) -> Tensor:
    found = model(batch[0], timestep=batch[1], class_labels=batch[2]).sample
    return F.mse_loss(found, batch[-1])


def by_caption(model: nn.Module, batch: Batch) -> Tensor:
    found = model(batch[0], timestep=batch[1], encoder_hidden_states=batch[3]).sample
    return F.mse_loss(found, batch[-1])


def pooled(model: nn.Module, batch: Batch) -> Tensor:
    """Stable Diffusion 3 also gets a vector that sums up the caption."""
    found = model(
        hidden_states=batch[0],
        timestep=batch[1],
        encoder_hidden_states=batch[3],
        pooled_projections=batch[3].mean(1),
    ).sample
    return F.mse_loss(found, batch[-1])


def flux(model: nn.Module, batch: Batch) -> Tensor:
    """Patches in a row, with their places."""
    images, times, _, captions, noise = batch
    places = [torch.zeros(x.shape[1], 3, dtype=x.dtype) for x in (images, captions)]
    found = model(
        hidden_states=images,
        timestep=times / 1000,
        encoder_hidden_states=captions,
        pooled_projections=captions.mean(1),
        img_ids=places[0],
        txt_ids=places[1],
    ).sample
    return F.mse_loss(found, noise)


def rebuild(model: nn.Module, batch: Batch) -> Tensor:
    """An autoencoder by the mean of its latent distribution."""
    return F.mse_loss(model(batch[0]).sample, batch[1])


def through_latents(model: nn.Module, batch: Batch) -> Tensor:
    """AutoencoderTiny rounds its latents in ``forward``, but not in its two halves."""
    return F.mse_loss(model.decode(model.encode(batch[0]).latents).sample, batch[1])


BLOCKS: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
COARSE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}

ENTRIES = (
    entry(
        "U-Net",
        of_class(
            "UNet2DModel",
            sample_size=16,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            **BLOCKS,
        ),
        noisy(3, 16, 16),
        unconditional,
    ),
    entry(
        "U-Net with captions",
        of_class(
            "UNet2DConditionModel",
            sample_size=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            **BLOCKS,
        ),
        noisy(4, 16, 16),
        by_caption,
    ),
    entry(
        "autoencoder (AutoencoderKL)",
        of_class("AutoencoderKL", **COARSE, **BLOCKS),
        tasks.pictures(16),
        rebuild,
    ),
    entry(
        "autoencoder (AutoencoderTiny)",
        of_class(
            "AutoencoderTiny",
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        tasks.pictures(16),
        through_latents,
    ),
    entry(
        "DiT",
        of_class(
            "DiTTransformer2DModel",
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            num_layers=2,
            sample_size=8,
            norm_num_groups=4,
            num_embeds_ada_norm=1000,
        ),
        noisy(4, 8, 8),
        by_class,
    ),
    entry(
        "Stable Diffusion 3 transformer",
        of_class(
            "SD3Transformer2DModel",
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=8,
        ),
        noisy(4, 8, 8),
        pooled,
    ),
    entry(
        "Flux transformer",
        of_class(
            "FluxTransformer2DModel",
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 2, 2),
        ),
        noisy(11, 8),
        flux,
    ),
)
