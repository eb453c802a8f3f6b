"""Callbacks that end a run or write down what it does, and what is left behind on its module."""

import lightning as L
import pytest
import torch

OTHER_CALLBACKS = "ignore:Be aware that when using `ckpt_path`, callbacks"
IGNORE_OTHER_CALLBACKS = pytest.mark.filterwarnings(OTHER_CALLBACKS)


class Stop(L.Callback):
    """Ends training after so many batches by an exception, as a crash would."""

    def __init__(self, batches, error=RuntimeError):
        self.left, self.error = batches, error

    def on_train_batch_end(self, *_):
        self.left -= 1
        if self.left == 0:
            raise self.error("stopped by the test")


class Watcher(L.Callback):
    """Remembers the gradients that the optimizer gets and the random state after every batch."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append([p.grad.clone() for p in module.parameters()])

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append([torch.get_rng_state(), torch.rand(1)])


def no_hooks(module):
    return not any(p._backward_hooks for p in module.parameters()) and not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules()
    )
