"""Models of timm, shrunk by their own arguments."""

import importlib
from typing import Any

from torch import nn

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.tasks import CLASSES


def entry(name: str, model: str, size: int = 64, **arguments: Any) -> Entry:
    """``model`` in timm's list, for images of ``size``."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(model, pretrained=False, num_classes=CLASSES, **arguments)

    return Entry(name, "timm", build, tasks.images(size), tasks.classify)


def sized(name: str, model: str, size: int = 64, **arguments: Any) -> Entry:
    """The same for models that must know the size of their images."""
    return entry(name, model, size, img_size=size, **arguments)


def of_class(name: str, path: str, size: int = 64, **arguments: Any) -> Entry:
    """A class of a module of ``timm.models``, "mlp_mixer.MlpMixer"."""

    def build() -> nn.Module:
        module, kind = path.split(".")
        found = importlib.import_module(f"timm.models.{module}")
        return getattr(found, kind)(num_classes=CLASSES, **arguments)

    return Entry(name, "timm", build, tasks.images(size), tasks.classify)


def mixer(name: str, block: str, **parts: str | int) -> Entry:
    """MLP-Mixer and its kin differ by their parts, which have names in ``timm.layers``."""

    def build() -> nn.Module:
        from timm import layers
        from timm.models import mlp_mixer

        settings: dict[str, Any] = {"patch_size": 8, "num_blocks": 2, "embed_dim": 48}
        for argument, value in parts.items():
            where = layers if argument == "mlp_layer" else mlp_mixer
            settings[argument] = getattr(where, value) if isinstance(value, str) else value
        kind = getattr(mlp_mixer, block)
        return mlp_mixer.MlpMixer(CLASSES, img_size=64, block_layer=kind, **settings)

    return Entry(name, "timm", build, tasks.images(64), tasks.classify)


def metaformer(name: str, *mixers: str) -> Entry:
    """PoolFormer, CAFormer and their kin differ by the token mixers of their stages."""

    def build() -> nn.Module:
        from timm.models import metaformer

        kinds = [getattr(metaformer, mixer) for mixer in mixers]
        stages: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 64)}
        return metaformer.MetaFormer(num_classes=CLASSES, token_mixers=kinds, **stages)

    return Entry(name, "timm", build, tasks.images(64), tasks.classify)


ViT: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 4}
STAGES: dict[str, Any] = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)}

ENTRIES = (
    sized("ViT, class token", "vit_tiny_patch16_224", **ViT),
    sized("ViT, registers and average pooling", "vit_medium_patch16_reg4_gap_256", **ViT),
    sized("DeiT III", "deit3_small_patch16_224", **ViT),
    sized("DeiT, distilled", "deit_tiny_distilled_patch16_224", **ViT),
    sized("BEiT", "beit_base_patch16_224", **ViT),
    sized("EVA-02", "eva02_tiny_patch14_224", 56, **ViT),
    sized("CaiT", "cait_xxs24_224", **ViT),
    mixer("MLP-Mixer", "MixerBlock"),
    mixer("ResMLP", "ResBlock", mlp_ratio=4, norm_layer="Affine"),
    mixer("gMLP", "SpatialGatingBlock", mlp_ratio=6, mlp_layer="GatedMlp"),
    sized(
        "Swin",
        "swin_tiny_patch4_window7_224",
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
    ),
    sized("Swin V2", "swinv2_tiny_window8_256", embed_dim=24, depths=(2, 2), num_heads=(2, 4)),
    entry("ConvNeXt V2", "convnextv2_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48)),
    of_class("ConvMixer", "convmixer.ConvMixer", dim=32, depth=2),
    metaformer("PoolFormer", *["Pooling"] * 4),
    metaformer("ConvFormer", *["SepConv"] * 4),
    entry("NF-ResNet", "nf_resnet26"),
    of_class(
        "ResNetV2 with GroupNorm and weight standardisation",
        "resnetv2.ResNetV2",
        layers=(1, 1, 1, 1),
        channels=(128, 128, 128, 128),
        stem_chs=32,
    ),
    entry("PVT V2", "pvt_v2_b0"),
    entry("XCiT", "xcit_nano_12_p16_224", img_size=64, depth=2),
    sized("Twins", "twins_svt_small", **STAGES),
    of_class(
        "DaViT", "davit.DaVit", depths=(1, 1), embed_dims=(24, 48), num_heads=(2, 4), window_size=4
    ),
    of_class("FocalNet", "focalnet.FocalNet", depths=(1, 1), embed_dim=24),
    sized("Hiera", "hiera_tiny_224", 64, embed_dim=16, stages=(1, 1, 1, 1)),
    entry("EdgeNeXt", "edgenext_xx_small"),
    entry("MobileViT", "mobilevit_xxs"),
    entry("GhostNet", "ghostnet_050"),
    entry("RepVGG", "repvgg_a0"),
    entry("Inception-NeXt", "inception_next_atto"),
)
