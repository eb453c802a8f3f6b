"""Where memory does not hold a batch that has grown, the step is made again with the last size."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_noise.hosts.lightning.out_of_memory import is_out_of_memory
from testing.adapting import Keeper, Numbered, Stream, adapting, run

EXAMPLES = 96
ALL = list(range(EXAMPLES))
GROW = {4: 8, 8: 16}
HOST = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"


class Full(torch.autograd.Function):
    """Runs out of memory in the backward pass, after other gradients have been added."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(HOST)


class Tight(Keeper):
    """Memory holds batches of ten examples."""

    failed = 0

    def __init__(self, where="forward"):
        super().__init__(lambda parameters: torch.optim.Adam(parameters, lr=0.01))
        self.where = where

    def training_step(self, batch, batch_idx):
        if len(batch[1]) <= 10:
            return super().training_step(batch, batch_idx)
        self.failed += 1
        if self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        loss = self.layer(batch[0]).square().mean()
        return loss + Full.apply(0.0 * self.layer.weight.sum())


def numbered(**arguments):
    return DataLoader(Numbered(EXAMPLES), batch_size=4, **arguments)


def sizes(module, epoch=0):
    return [len(batch[0]) for batch in module.epochs[epoch]["batches"]]


EVERY = {
    "inside": (4, [4] * 4 + [8] * 10),
    "between": ("epoch", [4] * 24),
}


@pytest.mark.parametrize(
    ("every", "where", "workers"),
    [
        ("inside", "forward", 0),
        ("inside", "backward", 0),
        ("between", "forward", 0),
        ("inside", "forward", 2),
    ],
)
def test_the_examples_of_the_step_come_again_in_smaller_batches(every, where, workers):
    steps, first = EVERY[every]
    module, noise = Tight(where), adapting(GROW, every=steps)
    with pytest.warns(UserWarning, match="memory does not hold local size 16 .* with local size 8"):
        run(module, noise, numbered(shuffle=True, num_workers=workers), epochs=3)
    assert module.failed == 1
    if not workers:
        assert sizes(module) == first
    assert max(sizes(module) + sizes(module, 1) + sizes(module, 2)) == 8
    assert module.numbers() == [ALL] * 3 and module.totals() == module.counts()
    adaptation = noise.state_dict()["adaptation"]
    assert adaptation["fits"] == 8 and noise.session.tally.skipped == {}
    assert sum(period[3] for period in adaptation["history"]) == 3 * EXAMPLES


def test_the_last_batch_of_an_epoch_becomes_several():
    module = Tight()
    with pytest.warns(UserWarning, match="memory does not hold local size 16"):
        fitted = run(module, adapting(GROW, every=4), DataLoader(Numbered(64), 4), epochs=2)
    assert sizes(module) == [4] * 4 + [8] * 6
    assert module.numbers() == [list(range(64))] * 2 and module.totals() == module.counts()
    assert fitted.current_epoch == 2


class Large(Tight):
    """Memory holds everything, and the test sets the size."""

    def training_step(self, batch, batch_idx):
        return Keeper.training_step(self, batch, batch_idx)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_optimizer_is_as_if_the_large_batch_had_never_been(where):
    """Adam's state and the weights are those of a run that never tries the size."""
    found = []
    for module, following in ((Tight(where), GROW), (Large(), {4: 8})):
        noise = adapting(following, every=4)
        if module.where == where and following is GROW:
            with pytest.warns(UserWarning, match="memory does not hold"):
                fitted = run(module, noise, numbered(), epochs=1, max_steps=11)
        else:
            fitted = run(module, noise, numbered(), epochs=1, max_steps=11)
        found.append((fitted.optimizers[0].state_dict()["state"], noise.estimate(), module))
    for name in (0, 1):
        for part, value in found[0][0][name].items():
            assert torch.equal(value, found[1][0][name][part]), part
    assert found[0][1] == found[1][1]


def test_a_later_micro_batch_of_a_window():
    """All micro-batches of the step come again; each step is the mean over its window."""

    class Second(Tight):
        seen = ()

        def training_step(self, batch, batch_idx):
            if len(batch[1]) > 4 and batch_idx % 2:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            Keeper.training_step(self, batch, batch_idx)
            return self.layer.bias.sum()

        def on_before_optimizer_step(self, optimizer):
            self.seen = (*self.seen, self.layer.bias.grad.item())

    module = Second()
    with pytest.warns(UserWarning, match="memory does not hold local size 8"):
        run(module, adapting({8: 16}, every=4), numbered(), epochs=1, accumulate=2)
    assert module.failed == 1 and module.seen == pytest.approx([1.0] * len(module.seen))
    # the first micro-batch of eight went well, and its gradient was dropped
    assert sizes(module)[:11] == [4] * 8 + [8] + [4] * 2
    used = [number for batch in module.epochs[0]["batches"] for number in batch[0]]
    assert sorted(set(used)) == ALL and len(used) == EXAMPLES + 8


def test_an_error_at_the_size_of_the_user_is_the_user_s():
    class Never(Keeper):
        def training_step(self, batch, batch_idx):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(Never(), adapting(GROW), numbered())
    assert not hasattr(caught.value, "__notes__")


def test_where_the_examples_cannot_come_again_the_error_names_the_fix():
    loader = DataLoader(Stream(EXAMPLES), batch_size=4)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(torch.OutOfMemoryError) as caught:
            run(Tight(), adapting(GROW, every=4), loader, epochs=1)
    said = [str(one.message) for one in warned if "max_local_size" in str(one.message)]
    (note,) = getattr(caught.value, "__notes__", said)  # Python 3.10 has no notes, and warns
    assert note.startswith("GradientNoiseScale: use AdaptiveBatchSize(max_local_size=8).")
    assert "the loader cannot go back to its examples" in note


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError(HOST), True),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_what_counts_as_running_out_of_memory(error, is_one):
    assert is_out_of_memory(error) is is_one
