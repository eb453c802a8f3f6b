"""Which probe serves which set-up, and why not."""

import pytest
from torch import nn

from lightning_noise.core.reasons import CannotMeasureError
from lightning_noise.probes.catalogue import choose
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.probe import Offer
from lightning_noise.probes.ranks import BucketTap
from lightning_noise.probes.setup import Setup

PLAIN = nn.Linear(2, 1)
NORMED = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def chosen(wanted, model=PLAIN, **facts):
    found = choose(wanted, Setup(**facts), model, dict(model.named_parameters()))
    return found.probe.name, found.offer


def refused(wanted, model=PLAIN, **facts):
    with pytest.raises(CannotMeasureError) as caught:
        chosen(wanted, model, **facts)
    return [reason.code for reason in caught.value.reasons]


def test_micro_batches_where_there_are_two():
    four = Offer("4 micro-batches per step on 1 rank are 4 groups")
    assert chosen("auto", accumulation=4) == ("micro_batches", four)
    _, offer = chosen("micro_batches", ranks=2)
    assert offer.reason == "1 micro-batch per step on 2 ranks are 2 groups"
    assert chosen("auto", NORMED, accumulation=2)[0] == "micro_batches"


def test_single_examples_where_there_is_one_group():
    assert chosen("auto")[0] == "examples"
    _, offer = chosen("examples", ranks=2, accumulation=4)
    assert offer.reason == "single examples are the groups, as requested"


def test_a_probe_of_the_user_s_own_is_taken():
    probe = Examples(exact=True)
    assert (
        choose(probe, Setup(accumulation=4), PLAIN, dict(PLAIN.named_parameters())).probe is probe
    )


def test_ranks_where_the_buckets_are_shown():
    tap = BucketTap()
    assert chosen("auto", ranks=8, accumulation=4, tap=tap)[0] == "ranks"
    assert chosen("auto", accumulation=4, tap=tap)[0] == "micro_batches"
    assert chosen("micro_batches", ranks=8, accumulation=4, tap=tap)[0] == "micro_batches"
    buckets = Offer("2 ranks are 2 groups, read from the buckets of DDP")
    assert chosen("ranks", ranks=2, tap=tap) == ("ranks", buckets)


def test_every_reason_has_its_code():
    assert refused("auto", NORMED) == ["one_group", "batch_statistics"]
    assert refused("examples", NORMED, accumulation=4) == ["batch_statistics"]
    assert refused("micro_batches") == ["one_group"]
    assert refused("ranks", ranks=8) == ["no_buckets"]
    assert refused("ranks", accumulation=4, tap=BucketTap()) == ["one_rank"]


def test_a_schedule_of_the_accumulation_that_begins_with_one():
    """Single examples serve every step; micro-batches only those of later epochs."""
    assert chosen("auto", accumulation=1, most_accumulation=4)[0] == "examples"
    name, offer = chosen("auto", NORMED, accumulation=1, most_accumulation=4)
    assert (name, offer.certain) == ("micro_batches", False)


def test_manual_optimization_on_one_rank():
    assert chosen("auto", manual=True)[0] == "examples"
    name, offer = chosen("auto", NORMED, manual=True)
    assert (name, offer.certain) == ("micro_batches", False)
    assert "BatchNorm" in offer.reason
    assert chosen("auto", manual=True, ranks=2)[0] == "micro_batches"
