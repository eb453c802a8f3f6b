"""The CPU in place of a device without float64: what such a device refuses raises here too."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_noise.probes import double_float


class Float64Error(TypeError):
    """As MPS says of float64."""


class Float64Forbidden(TorchDispatchMode):
    """Raises for every operation that is given a tensor in float64, or gives one."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves((args, kwargs, result)):
            dtype = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
            if isinstance(dtype, torch.dtype) and dtype in (torch.float64, torch.complex128):
                raise Float64Error(f"{func} met float64.")
        return result


@contextmanager
def cpu_without_float64() -> Iterator[None]:
    """The package takes the CPU for a device without float64."""
    double_float.WITHOUT_FLOAT64.add("cpu")
    try:
        yield
    finally:
        double_float.WITHOUT_FLOAT64.discard("cpu")


class Forbidding:
    """Forbids float64 from the start of a batch until its gradients have been read.

    Its two callbacks stand around the one that is tried.
    """

    def __init__(self) -> None:
        self.mode = Float64Forbidden()
        self._stack = ExitStack()
        self.before, self.after = _Before(self), _After(self)

    def enter(self) -> None:
        self._stack.enter_context(self.mode)

    def leave(self) -> None:
        self._stack.close()


class _Before(L.Callback):
    def __init__(self, forbidding: Forbidding) -> None:
        self._forbidding = forbidding

    def on_train_batch_start(self, *_):
        self._forbidding.enter()


class _After(L.Callback):
    def __init__(self, forbidding: Forbidding) -> None:
        self._forbidding = forbidding

    def on_after_backward(self, *_):
        self._forbidding.leave()

    def on_exception(self, *_):
        self._forbidding.leave()


class OnCpuWithoutFloat64(L.Callback):
    """A fit in which the package takes the CPU for a device without float64."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def setup(self, *_, **__):
        self._stack.enter_context(cpu_without_float64())

    def teardown(self, *_, **__):
        self._stack.close()

    def on_exception(self, *_):
        self._stack.close()
