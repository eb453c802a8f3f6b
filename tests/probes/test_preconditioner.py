import pytest
import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop

from lightning_noise.probes.norms import sum_of_squares
from lightning_noise.probes.preconditioner import (
    Preconditioner,
    UnknownPreconditionerError,
    check_optimizer,
    weighted_chunk_norms,
)

OPTIMIZERS = {  # without momentum a step is −lr·P·g, which is the truth here
    "adam": lambda p: Adam(p, lr=0.1, betas=(0.0, 0.9), eps=1e-3),
    "adamw": lambda p: AdamW(p, lr=0.1, betas=(0.0, 0.9), eps=1e-3, weight_decay=0.0),
    "amsgrad": lambda p: Adam(p, lr=0.1, betas=(0.0, 0.9), eps=1e-3, amsgrad=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, eps=1e-3),
    "centered rmsprop": lambda p: RMSprop(p, lr=0.1, eps=1e-3, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1, eps=1e-3),
    "sgd": lambda p: SGD(p, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_step_that_was_made_is_along_it(make):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(40, 50, dtype=torch.float64))
    optimizer = make([weight])
    for _ in range(5):
        before = weight.detach().clone()
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    step = weight.detach() - before
    assert torch.allclose(
        weight.grad * -0.1 * Preconditioner(optimizer)(weight), step, rtol=1e-9, atol=1e-15
    )
    form = sum_of_squares(
        weighted_chunk_norms(weight.grad, Preconditioner(optimizer)(weight)), weight.device
    )
    assert float(form) == pytest.approx(float(-(step / 0.1 * weight.grad).sum()), rel=1e-9)


def test_none_before_the_first_step():
    weight = nn.Parameter(torch.zeros(2))
    for make in (Adam, RMSprop, Adagrad):
        assert Preconditioner(make([weight]))(weight) is None


def test_sparse_gradients():
    gradient = torch.sparse_coo_tensor(
        [[0, 2, 2]], [[1.0, 1.0], [1.0, 0.0], [1.0, 2.0]], (4, 2), check_invariants=True
    )
    diagonal = torch.arange(1.0, 9.0).view(4, 2)
    want = float((gradient.to_dense() ** 2 * diagonal).sum())
    assert float(
        sum_of_squares(weighted_chunk_norms(gradient, diagonal), torch.device("cpu"))
    ) == pytest.approx(want)


def test_unknown_optimizers_are_refused_by_name():
    with pytest.raises(UnknownPreconditionerError, match=r"Adadelta.*euclidean"):
        check_optimizer(Adadelta([nn.Parameter(torch.zeros(2))]))
    check_optimizer(Adam([nn.Parameter(torch.zeros(2))]))
