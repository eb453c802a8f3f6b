"""A state that was saved on another number of ranks: what is taken up, and what is reported."""

import torch
from torch import nn

from lightning_noise.measure.readings import Tally
from lightning_noise.measure.session import Session
from lightning_noise.measure.what import What
from lightning_noise.probes.setup import Setup


def session(ranks, warned):
    model = nn.Linear(2, 2)
    setup = Setup(ranks=ranks, accumulation=2)
    return Session(
        What(),
        setup,
        model.named_parameters,
        {"": torch.optim.SGD(model.parameters())},
        model,
        warn=warned.append,
    )


def saved_by_two_ranks():
    saved = session(2, [])
    saved.tally.sizes.extend([16.0, 16.0])
    saved.tally.examples = 32.0
    return saved.state_dict()


def test_the_batch_size_in_use_is_counted_anew_and_the_user_is_told():
    warned = []
    alone = session(1, warned)
    alone.load_state_dict(saved_by_two_ranks())
    assert (alone.tally.global_size, alone.tally.examples) == (None, 32.0)
    assert warned == [
        "the checkpoint was saved on 2 ranks, and this run has 1 rank. The averages go on, and "
        "the batch size in use is counted anew."
    ]


def test_the_same_number_of_ranks_goes_on_silently():
    warned = []
    both = session(2, warned)
    both.load_state_dict(saved_by_two_ranks())
    assert (both.tally.global_size, warned) == (16.0, [])


def test_a_checkpoint_inside_an_epoch_says_that_the_data_size_is_not_counted():
    warned = []
    alone = session(1, warned)
    alone.load_state_dict(saved_by_two_ranks(), inside_epoch=True)
    assert warned[0].endswith(
        "The size of the data set is not taken from the epoch that was interrupted."
    )
    alone.next_epoch(whole=True)
    assert alone.tally.data_size is None


def test_the_epoch_after_an_interrupted_one_gives_the_data_size():
    tally = Tally(examples=24.0)
    tally.leave_ranks(inside_epoch=True)
    tally.next_epoch(whole=True)
    tally.examples = 120.0
    tally.next_epoch(whole=True)
    assert tally.data_size == 96.0
