"""Modules of torch that compute otherwise where their calls are intercepted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_noise.probes.examples.hooks import ModuleHook

FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


def modules_of(model: nn.Module) -> list[nn.Module]:
    """All modules, each once, in a fraction of the time that ``model.modules()`` takes."""
    found = {id(model): model}
    waiting = [model]
    while waiting:
        for module in waiting.pop()._modules.values():
            if module is not None and id(module) not in found:
                found[id(module)] = module
                waiting.append(module)
    return list(found.values())


def fast_paths(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Modules that take a fused kernel in eval mode, unless calls are intercepted."""
    for module in modules:
        if isinstance(module, FUSED) and not module.training:
            yield module


class Pauses:
    """Keeps interception away from fused kernels, so that a run stays the same to the last bit.

    Args:
        pause: stops interception.
        resume: goes on, given the input and the output of the module.
    """

    def __init__(
        self, pause: Callable[[], None], resume: Callable[[Tensor | None, Any], None]
    ) -> None:
        self._pause = pause
        self._resume = resume
        self._inside = 0
        self._before = ModuleHook(self._enter)
        self._after = ModuleHook(self._leave)

    def attach(self, modules: Iterable[nn.Module]) -> ExitStack:
        """Hooks those that take fused kernels, until the stack is closed."""
        hooks = ExitStack()
        for module in fast_paths(modules):
            before = module.register_forward_pre_hook(self._before, prepend=True)
            after = module.register_forward_hook(
                self._after, prepend=True, with_kwargs=True, always_call=True
            )
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        return hooks

    def _is_fused(self, module: nn.Module) -> bool:
        if not torch.is_grad_enabled():
            return True
        return not any(parameter.requires_grad for parameter in module.parameters())

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._inside or self._is_fused(module):
            self._inside += 1
            self._pause()

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self._inside:
            return
        self._inside -= 1
        if not self._inside:
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            self._resume(given[0] if given else None, output)
