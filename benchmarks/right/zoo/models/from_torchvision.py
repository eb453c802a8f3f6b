"""Models of torchvision, built by their classes in small configurations."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.tasks import CLASSES

GROUPS = partial(nn.GroupNorm, 4)
VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32}
SWIN = {"patch_size": [2, 2], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}


def named(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    """A builder of torchvision's list."""

    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **arguments)

    return build


def of_class(path: str, **arguments: Any) -> Callable[[], nn.Module]:
    """A class of a module of ``torchvision.models``, "resnet.ResNet"."""

    def build() -> nn.Module:
        module, name = path.split(".")
        kind = getattr(importlib.import_module(f"torchvision.models.{module}"), name)
        return kind(num_classes=CLASSES, **arguments)

    return build


def resnet(block: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import resnet

        return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], CLASSES, **arguments)

    return build


def vgg() -> nn.Module:
    from torchvision.models import vgg

    layers = vgg.make_layers([8, "M", 16, "M", 32, "M"])
    model = vgg.VGG(layers, num_classes=CLASSES)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier[0] = nn.Linear(32, 64)
    model.classifier[3] = nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, CLASSES)
    return model


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
    return ConvNeXt(blocks, layer_scale=0.1, num_classes=CLASSES)


def swin_v2() -> nn.Module:
    from torchvision.models import swin_transformer as swin

    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(window_size=[4, 4], num_classes=CLASSES, **SWIN, **parts)


def mvit() -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    settings = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3], "stride_kv": [1, 2, 2]}
    blocks = [
        MSBlockConfig(2, 16, 32, stride_q=[1, 1, 1], **settings),
        MSBlockConfig(4, 32, 32, stride_q=[1, 2, 2], **settings),
    ]
    return MViT(
        (32, 32),
        4,
        blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=CLASSES,
    )


def entry(name: str, build: Callable[[], nn.Module], draw=tasks.images(32)) -> Entry:
    return Entry(name, "torchvision", build, draw, tasks.classify)


ENTRIES = (
    entry("ResNet, BasicBlock", resnet("BasicBlock")),
    entry("ResNet, BasicBlock with GroupNorm", resnet("BasicBlock", norm_layer=GROUPS)),
    entry(
        "ResNeXt with GroupNorm",
        resnet("Bottleneck", groups=4, width_per_group=4, norm_layer=GROUPS),
    ),
    entry("VGG", vgg),
    entry("SqueezeNet 1.1", named("squeezenet1_1")),
    entry("DenseNet", of_class("densenet.DenseNet", growth_rate=8, block_config=(2, 2, 2))),
    entry("GoogLeNet", named("googlenet", aux_logits=False, init_weights=False)),
    entry("MobileNetV2", named("mobilenet_v2")),
    entry("MobileNetV3", named("mobilenet_v3_small"), tasks.images(64)),
    entry("MobileNetV3 with GroupNorm", named("mobilenet_v3_small", norm_layer=GROUPS)),
    entry("EfficientNet-B0", named("efficientnet_b0"), tasks.images(64)),
    entry("RegNetY", named("regnet_y_400mf"), tasks.images(64)),
    entry("ShuffleNetV2", named("shufflenet_v2_x0_5"), tasks.images(64)),
    entry("MNASNet", named("mnasnet0_5"), tasks.images(64)),
    entry("ConvNeXt", convnext),
    entry(
        "Vision Transformer", of_class("vision_transformer.VisionTransformer", mlp_dim=64, **VIT)
    ),
    entry("Swin", of_class("swin_transformer.SwinTransformer", window_size=[4, 4], **SWIN)),
    entry("Swin V2", swin_v2),
    entry(
        "LR-ASPP segmentation",
        named("lraspp_mobilenet_v3_large", weights_backbone=None),
        tasks.masks(64),
    ),
    entry("R3D video classifier", named("r3d_18"), tasks.clips(4, 32)),
    entry("MViT video classifier", mvit, tasks.clips(4, 32)),
)
