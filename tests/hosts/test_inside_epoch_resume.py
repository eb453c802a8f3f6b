"""A run that is resumed at any step, also in the middle of an epoch whose batch size has changed,
goes on as the one that was not interrupted.
"""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_noise import AdaptiveBatchSize, GradientNoiseScale
from testing.adapting import Keeper, Numbered, Script, Stream, adapting
from testing.toys import Resumable, fit

EXAMPLES = 96
SIZES = [4] * 3 + [8] * 3 + [16] * 3 + [12]  # of the first epoch; the second has 8 batches of 12
GROW = {4: 8, 8: 16, 16: 12}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings(
        "ignore:You're resuming from a checkpoint that ended before the epoch ended"
    ),
]


class AtBorder(Resumable):
    """At the end of an epoch it starts anew."""

    def state_dict(self):
        ends = self.at == len(self)
        return {"at": 0 if ends else self.at}


def replicas():
    return DistributedSampler(Numbered(EXAMPLES), num_replicas=1, rank=0)


LOADERS = {
    "in order": lambda: DataLoader(Numbered(EXAMPLES), batch_size=4),
    "a DistributedSampler": lambda: DataLoader(
        Numbered(EXAMPLES), batch_size=4, sampler=replicas()
    ),
    "stateful": lambda: AtBorder(Numbered(EXAMPLES), batch_size=4),
}


def go(loader, folder=None, step=None, *, noise=None, epochs=2, accumulate=1, **arguments):
    """Trains, with a checkpoint after every step, or from the one at ``step``."""
    module, noise = Keeper(), noise or adapting(GROW, every=3)
    savers = []
    path = None
    if step is None:
        savers = [ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1, filename="{step}")]
    else:
        path = folder / f"step={step}.ckpt"
    arguments = {"enable_checkpointing": bool(savers), "accumulate": accumulate, **arguments}
    fit(module, loader, noise, *savers, epochs=epochs, ckpt_path=path, **arguments)
    return module, noise


def batches(module):
    return [batch[0] for kept in module.epochs.values() for batch in kept["batches"]]


def alike(whole, again, left):
    """Whether a resumed run used the last batches of the whole run and came to its weights."""
    assert batches(again[0]) == batches(whole[0])[-left:]
    for a, b in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert again[1].state_dict() == whole[1].state_dict()


@pytest.mark.parametrize("name", LOADERS)
def test_resume_is_exact_at_every_step(tmp_path, name):
    whole = go(LOADERS[name](), tmp_path)
    assert [len(batch) for batch in batches(whole[0])] == SIZES + [12] * 8
    for step in range(1, 18):
        alike(whole, go(LOADERS[name](), tmp_path, step), 18 - step)


@pytest.mark.parametrize("step", [2, 3, 4, 7, 8])
def test_resume_is_exact_with_worker_processes(tmp_path, step):
    """Two batches are drawn ahead; in between a change is drawn that has not arrived. The epoch of
    the sampler is set before the workers begin, also at the end of an epoch.
    """

    def loader():
        return DataLoader(Numbered(EXAMPLES), 4, sampler=replicas(), num_workers=1)

    whole = go(loader(), tmp_path, accumulate=2, noise=adapting({8: 16, 16: 24}, every=2))
    first = [4] * 6 + [8] * 4 + [12] * 3 + [4]
    assert [len(batch) for batch in batches(whole[0])] == first + [12] * 8
    again = go(loader(), tmp_path, step, accumulate=2, noise=adapting({8: 16, 16: 24}, every=2))
    alike(whole, again, 22 - 2 * step)


@pytest.mark.parametrize("own", [True, False], ids=["own generator", "torch's generator"])
def test_a_shuffled_epoch_is_resumed_in_its_order(tmp_path, own):
    """Without any help of the loader: every example is used once, as Lightning alone cannot do."""

    def loader():
        torch.manual_seed(1)
        generator = torch.Generator().manual_seed(2) if own else None
        return DataLoader(Numbered(EXAMPLES), 4, shuffle=True, generator=generator)

    whole = go(loader(), tmp_path, epochs=1)
    for step in (1, 3, 6, 9):
        data = loader()
        torch.manual_seed(99)
        again = go(data, tmp_path, step, epochs=1)
        alike(whole, again, 10 - step)


@pytest.mark.parametrize("limit", [0.5, 7])
def test_resume_in_a_limited_epoch(tmp_path, limit):
    def loader():
        return LOADERS["in order"]()

    val = {"limit_train_batches": limit, "val_check_interval": 0.5}
    whole = go(loader(), tmp_path, **val)
    for step in (2, 4, 6):
        again = go(loader(), tmp_path, step, **val)
        alike(whole, again, len(batches(whole[0])) - step)
        assert again[0].totals() == whole[0].totals()


def test_a_stream_goes_on_at_the_size_it_had(tmp_path):
    """Which examples come is up to the stream; Lightning starts it anew."""
    whole = go(DataLoader(Stream(EXAMPLES), 4), tmp_path, epochs=1)
    again = go(DataLoader(Stream(EXAMPLES), 4), tmp_path, 5, epochs=1)
    sizes = [len(batch) for batch in batches(whole[0])]
    assert [len(batch) for batch in batches(again[0])][:4] == sizes[5:9]


def test_resume_between_epochs_is_exact_without_decisions_inside(tmp_path):
    """The loaders keep their position with every="epoch" too."""

    def noise():
        return adapting({4: 8})

    whole = go(LOADERS["in order"](), tmp_path, noise=noise())
    for step in (5, 24, 30):
        again = go(LOADERS["in order"](), tmp_path, step, noise=noise())
        alike(whole, again, 36 - step)


def test_a_checkpoint_of_the_middle_is_read_by_a_run_that_does_not_adapt(tmp_path):
    go(LOADERS["in order"](), tmp_path)
    module, _ = go(LOADERS["in order"](), tmp_path, 5, noise=GradientNoiseScale())
    assert {len(batch) for batch in batches(module)} == {4}


def test_another_batch_size_of_the_loader_starts_from_it(tmp_path):
    go(LOADERS["in order"](), tmp_path)
    noise = GradientNoiseScale(adaptive_batch_size=AdaptiveBatchSize(Script({}), every=3))
    with pytest.warns(UserWarning, match="this run begins with local size 6"):
        module, _ = go(DataLoader(Numbered(EXAMPLES), 6), tmp_path, 5, noise=noise)
    assert {len(batch) for batch in batches(module)} == {6}
