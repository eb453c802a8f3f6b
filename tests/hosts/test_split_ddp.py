"""``split=2`` on two real processes: the training of a run without it, and nothing left changed."""

import pytest
import torch

from testing.launch import launch
from testing.worlds.split_worlds import EXAMPLES, STRATEGIES

pytestmark = [pytest.mark.slow, pytest.mark.traced]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLIT_FOLDER", str(folder / "checkpoints"))
        return launch("testing.worlds.split_worlds:everything", 2, folder)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_and_steps_are_those_without_split(two, strategy, name):
    for rank in two:
        without, split = (rank[strategy, name][kind] for kind in ("without", "split"))
        assert split["steps"] == without["steps"]
        assert sum(split["sizes"]) == sum(without["sizes"]) + (2 if name == "few" else 0)
        assert torch.allclose(split["weights"], without["weights"], rtol=1e-9, atol=1e-12)
        assert torch.equal(split["weights"], two[0][strategy, name]["split"]["weights"])
        assert split["left"] == without["left"] == (1, split["steps"] // 2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_numbers_are_those_of_smaller_batches_that_are_accumulated(two, strategy):
    for rank in two:
        split, smaller = (rank[strategy, "whole"][kind] for kind in ("split", "smaller"))
        assert split["probe"] == smaller["probe"] and split["global size"] == 16
        assert split["estimate"] == pytest.approx(smaller["estimate"], rel=1e-12)
        assert split["estimate"] == two[0][strategy, "whole"]["split"]["estimate"]


def test_the_end_of_an_epoch_is_resumed_exactly(two):
    for rank in two:
        whole, again = rank["resumed"]["whole"], rank["resumed"]["again"]
        assert torch.equal(whole["weights"], again["weights"])
        assert whole["estimate"] == again["estimate"]
