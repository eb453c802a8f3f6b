import pytest
import torch

from lightning_noise.probes.norms import CHUNK, squared_norm

TORCH = torch.Generator().manual_seed(0)


def test_24_million_numbers_to_a_millionth():
    x = torch.randn(24_000_000, generator=TORCH)
    truth = float(x.double().square().sum())
    assert float(squared_norm(x)) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7, 11), (CHUNK,), (CHUNK + 1,), (3, CHUNK, 2), (0,)])
def test_every_dtype_and_length(dtype, shape):
    x = torch.randn(shape, generator=TORCH).to(dtype)
    result = squared_norm(x)
    assert result.dtype == torch.float64
    assert float(result) == pytest.approx(float(x.double().square().sum()), rel=3e-7)


@pytest.mark.parametrize("view", ["transposed", "channels_last", "every second", "expanded"])
def test_every_stride(view):
    x = torch.randn(6, 5, 40, 40, generator=TORCH)
    x = {
        "transposed": lambda: x.permute(3, 1, 0, 2),
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "every second": lambda: x[:, ::2, 1::3],
        "expanded": lambda: x[:1].expand(6, 5, 40, 40),
    }[view]()
    assert float(squared_norm(x)) == pytest.approx(float(x.double().square().sum()), rel=3e-7)


def test_a_slice_of_a_larger_storage():
    x = torch.randn(5000, generator=TORCH)[1000:3500].view(50, 50).t()
    assert float(squared_norm(x)) == pytest.approx(float(x.double().square().sum()), rel=3e-7)


def test_sparse_with_repeated_indices_adds_up_first():
    sparse = torch.sparse_coo_tensor(
        [[1, 1, 3]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], (5, 2), check_invariants=True
    )
    assert float(squared_norm(sparse)) == pytest.approx(4**2 + 6**2 + 5**2 + 6**2, rel=3e-7)


def test_half_precision_does_not_overflow():
    """300² · 1e5 = 9e9 is far above fp16's 65 504."""
    x = torch.full((100_000,), 300.0, dtype=torch.float16)
    assert float(squared_norm(x)) == pytest.approx(9e9, rel=1e-6)


def test_inf_stays_inf():
    x = torch.zeros(2000)
    x[1500] = torch.inf
    assert float(squared_norm(x)) == torch.inf
