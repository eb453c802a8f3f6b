"""One thread: the tensors of the tests are small, and threads that wait for each other on busy
cores cost most of the time.
"""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights that a test does not seed itself are the same in every order of the tests."""
    torch.manual_seed(0)
