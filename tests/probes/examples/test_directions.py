"""Signs: stateless, unbiased, the same by table and by index, and none of the global
random state.
"""

import pytest
import torch

from lightning_noise.probes.examples import directions
from lightning_noise.probes.examples.directions import Directions, Signs, mix


def draw(
    sizes: dict[str, int], seed: int, examples: int = 3, sketches: int = 2
) -> dict[str, Signs]:
    drawn = Directions(sizes, sketches, torch.device("cpu"))
    drawn.begin(seed, examples)
    return {name: drawn.signs(name) for name in sizes}


def test_signs_are_plus_or_minus_one_over_root_m() -> None:
    for signs in draw({"a": 5, "b": 17}, seed=1).values():
        dense = signs.dense(torch.float64)
        assert dense.shape == (3, 2, signs.size)
        torch.testing.assert_close(dense.abs(), torch.full_like(dense, 2**-0.5))


def test_parameters_examples_and_sketches_have_signs_of_their_own() -> None:
    signs = draw({"a": 64, "b": 64}, seed=1)
    rows = torch.cat(
        [part.dense(torch.float32).flatten(0, 1) for part in signs.values()]
    )  # (12, 64)
    assert len(rows.unique(dim=0)) == 12


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs beyond twelve are products of two."""
    monkeypatch.setattr(directions, "INNER", 12)


@pytest.mark.usefixtures("_few")
def test_products_of_signs() -> None:
    test_signs_are_plus_or_minus_one_over_root_m()
    test_signs_are_balanced_and_uncorrelated()
    for size in (11, 12, 13, 24, 25, 50):
        test_signs_by_index_are_those_of_the_table(size)
        signs = draw({"a": size}, seed=2)["a"]
        assert torch.equal(
            signs.dense(torch.float32, also=1)[..., :size], signs.dense(torch.float32)
        )
        assert signs.dense(torch.float32, also=1).shape == (3, 2, size + 1)


def test_signs_of_a_huge_table_are_few() -> None:
    assert directions.bytes_for(10**7) < 2000


@pytest.mark.parametrize("size", [1, 7, 8, 9, 50])
def test_signs_by_index_are_those_of_the_table(size: int) -> None:
    signs = draw({"other": 3, "a": size}, seed=2)["a"]
    ids = torch.randint(size, (3, 40), generator=torch.Generator().manual_seed(0))
    dense = signs.dense(torch.float64)  # (3, 2, size)
    wanted = torch.stack([dense[i][:, ids[i]] for i in range(3)])
    assert torch.equal(signs.at(ids, torch.float64), wanted)


def test_a_seed_says_it_all() -> None:
    first, again, other = (draw({"a": 200}, seed)["a"].dense(torch.float32) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeds_of_steps_micro_batches_and_ranks_differ() -> None:
    seeds = {
        mix(0, step, micro, rank) for step in range(40) for micro in range(8) for rank in range(8)
    }
    assert len(seeds) == 40 * 8 * 8


def test_signs_are_balanced_and_uncorrelated() -> None:
    signs = torch.cat(
        [
            draw({"a": 40}, seed, examples=50, sketches=1)["a"].dense(torch.float64)[:, 0]
            for seed in range(80)
        ]
    )
    error = len(signs) ** -0.5  # of a mean of independent signs
    products = signs.T @ signs / len(signs) - torch.eye(40)  # 780 pairs
    assert signs.mean(0).abs().max() < 5 * error
    assert products.abs().max() < 5 * error


def test_the_global_random_state_is_untouched() -> None:
    before = torch.random.get_rng_state()
    draw({"a": 100}, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
