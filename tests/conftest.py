"""One thread: the tensors of the tests are small, and threads that wait for each other on busy cores cost most of the time."""

import torch

torch.set_num_threads(1)
