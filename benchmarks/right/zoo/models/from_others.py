"""Models of MONAI, PyTorch Geometric and segmentation_models_pytorch."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Batch, Entry
from benchmarks.right.zoo.tasks import CLASSES


def of_class(module: str, kind: str, **settings: Any) -> Callable[[], nn.Module]:
    """A class of a module."""
    return lambda: getattr(importlib.import_module(module), kind)(**settings)


def medical(name: str, kind: str, size: int = 16, **settings: Any) -> Entry:
    """A model of MONAI that turns a volume into another."""
    build = of_class("monai.networks.nets", kind, **settings)
    return Entry(name, "monai", build, tasks.volumes(size), tasks.imitate)


def segmenting(name: str, kind: str) -> Entry:
    """A model of segmentation_models_pytorch."""
    settings: dict[str, Any] = {"encoder_name": "resnet18", "encoder_weights": None}
    build = of_class("segmentation_models_pytorch", kind, classes=CLASSES, **settings)
    package = "segmentation_models_pytorch"
    return Entry(name, package, build, tasks.masks(64), tasks.classify)


NODES, EDGES = 8, 11


class OnGraphs(nn.Module):
    """A network on nodes, applied to all graphs of a batch at once, joined into one as PyTorch
    Geometric joins them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(16, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        offset = torch.arange(len(nodes))[:, None, None] * NODES
        joined = (edges + offset).flatten(0, 1).T
        states = self.network(nodes.flatten(0, 1), joined)
        return self.head(states.view(len(nodes), NODES, -1).mean(1))


class OnDenseGraphs(nn.Module):
    """Two layers that take the graphs of a batch as adjacency matrices."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        layer = of_class("torch_geometric.nn", kind, in_channels=5, out_channels=16)
        self.layer = layer()
        self.head = nn.Linear(16, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        adjacency = F.one_hot(edges[..., 0] * NODES + edges[..., 1], NODES**2).sum(1)
        adjacency = adjacency.view(-1, NODES, NODES).to(nodes.dtype)
        return self.head(F.relu(self.layer(nodes, adjacency)).mean(1))


def graphs(n: int) -> Batch:
    """Graphs of eight nodes and eleven edges, and their classes."""
    nodes, edges = torch.randn(n, NODES, 5), torch.randint(NODES, (n, EDGES, 2))
    return nodes, edges, torch.randint(CLASSES, (n,))


def classify_graphs(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0], batch[1]), batch[2])


def joined(name: str, kind: str) -> Entry:
    """Two layers of message passing."""
    settings = {"in_channels": 5, "hidden_channels": 16, "num_layers": 2, "out_channels": 16}
    network = of_class("torch_geometric.nn", kind, **settings)
    return Entry(name, "torch_geometric", lambda: OnGraphs(network()), graphs, classify_graphs)


def dense(name: str, kind: str) -> Entry:
    """A layer on adjacency matrices."""
    return Entry(name, "torch_geometric", lambda: OnDenseGraphs(kind), graphs, classify_graphs)


def swin_unetr() -> nn.Module:
    """In two dimensions."""
    from monai.networks.nets import SwinUNETR

    stages = {"depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)}
    return SwinUNETR(in_channels=1, out_channels=1, feature_size=12, spatial_dims=2, **stages)


UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (8, 16, 24),
    "strides": (2, 2),
}
VOLUME: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}

ENTRIES = (
    medical("U-Net, InstanceNorm and PReLU", "UNet", num_res_units=1, **UNET),
    medical("attention U-Net", "AttentionUnet", **UNET),
    medical("SegResNet", "SegResNet", init_filters=8, blocks_down=(1, 1), blocks_up=(1,), **VOLUME),
    medical(
        "DynUNet",
        "DynUNet",
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 24],
        **VOLUME,
    ),
    medical(
        "UNETR",
        "UNETR",
        img_size=16,
        feature_size=8,
        hidden_size=24,
        mlp_dim=48,
        num_heads=4,
        **VOLUME,
    ),
    Entry("Swin UNETR", "monai", swin_unetr, tasks.pictures(64, 1), tasks.imitate),
    medical("HighResNet", "HighResNet", **VOLUME),
    joined("GCN, joined graphs", "GCN"),
    joined("GraphSAGE, joined graphs", "GraphSAGE"),
    joined("GAT, joined graphs", "GAT"),
    joined("GIN, joined graphs", "GIN"),
    dense("GCN, adjacency matrices", "DenseGCNConv"),
    dense("GraphConv, adjacency matrices", "DenseGraphConv"),
    segmenting("U-Net, ResNet encoder", "Unet"),
    segmenting("DeepLabV3+, ResNet encoder", "DeepLabV3Plus"),
)
