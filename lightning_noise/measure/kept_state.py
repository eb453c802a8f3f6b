"""A pause at frozen weights: whatever a forward pass in train mode changes is restored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Puts ``module`` in train mode and back again, with its buffers and gradients as they were,
    also after an exception.

    A module that is in train mode already keeps the flags of its parts: one that the user put in
    eval mode stays there.
    """
    parts = list(module.modules())
    flags = [part.training for part in parts]
    buffers: list[tuple[nn.Module, str, torch.Tensor, torch.Tensor]] = []
    for part in parts:
        for name, buffer in part._buffers.items():
            if buffer is not None:
                value = buffer.detach().clone()
                buffers.append((part, name, buffer, value))
    gradients = [(p, p.grad) for p in module.parameters()]
    try:
        if not module.training:
            module.train()
        yield
    finally:
        with torch.no_grad():
            for part, name, buffer, value in buffers:
                part._buffers[name] = buffer  # a layer may have put another tensor in its place
                buffer.copy_(value)
        for p, gradient in gradients:
            p.grad = gradient
        for part, flag in zip(parts, flags, strict=True):
            part.training = flag
