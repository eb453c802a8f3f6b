import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_noise.probes.second_derivatives import (
    DifferencesDisagreeError,
    NoSecondDerivativeError,
    difference_forms,
    gauss_newton_forms,
    hessian_forms,
    inner,
)


def mlp():
    return nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()


def problem():
    torch.manual_seed(3)
    module = mlp()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randint(3, (7,))
    return module, x, y


def vectors(module, count=3):
    return [[torch.randn_like(p) for p in module.parameters()] for _ in range(count)]


def flat(vector):
    return torch.cat([v.reshape(-1) for v in vector])


def exact_matrix(module, function):
    """Second derivatives of ``function(parameters as one vector)`` by torch's own dense Hessian."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]

    def of(theta):
        parts = [t.view_as(p) for t, p in zip(theta.split(sizes), parameters, strict=True)]
        return function(dict(zip(names, parts, strict=True)))

    return of, flat(p.detach() for p in parameters)


def test_three_layers_against_the_exact_hessian():
    module, x, y = problem()
    of, theta = exact_matrix(module, lambda p: F.cross_entropy(functional_call(module, p, (x,)), y))
    exact = torch.autograd.functional.hessian(of, theta)
    vs = vectors(module)
    got = hessian_forms(F.cross_entropy(module(x), y), list(module.parameters()), vs)
    want = torch.stack([flat(v) @ exact @ flat(v) for v in vs])
    assert torch.allclose(got, want, rtol=1e-10, atol=0)
    assert (torch.linalg.eigvalsh(exact) < -1e-6).any()  # an indefinite one


def test_gauss_newton_against_its_definition():
    module, x, y = problem()
    of, theta = exact_matrix(module, lambda p: functional_call(module, p, (x,)).reshape(-1))
    jacobian = torch.autograd.functional.jacobian(of, theta)
    outputs = module(x).detach()
    inside = torch.autograd.functional.hessian(
        lambda z: F.cross_entropy(z.view_as(outputs), y), outputs.reshape(-1)
    )
    exact = jacobian.T @ inside @ jacobian
    vs, z = vectors(module), module(x)
    got = gauss_newton_forms(F.cross_entropy(z, y), z, list(module.parameters()), vs)
    want = torch.stack([flat(v) @ exact @ flat(v) for v in vs])
    assert torch.allclose(got, want, rtol=1e-10, atol=0)


def test_differences_agree_with_double_backward_and_put_the_weights_back():
    module, x, y = problem()
    parameters, before = (
        list(module.parameters()),
        [p.detach().clone() for p in module.parameters()],
    )
    storages = [p.data_ptr() for p in parameters]
    loss, vs = F.cross_entropy(module(x), y), vectors(module)

    def gradient():
        return torch.autograd.grad(F.cross_entropy(module(x), y), parameters)

    want = hessian_forms(loss, parameters, vs)
    got = difference_forms(gradient, parameters, vs)
    assert torch.allclose(got, want, rtol=2e-2)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    assert [p.data_ptr() for p in parameters] == storages
    loss.backward()  # the graph made before is still good

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        difference_forms(fails, parameters, vs)
    assert [p.data_ptr() for p in parameters] == storages


def test_differences_that_disagree_are_refused():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def gradient():  # of cos(300·w): bends many times within a step
        return torch.autograd.grad((300 * weight).cos().sum(), [weight])

    with pytest.raises(DifferencesDisagreeError, match="float64"):
        difference_forms(gradient, [weight], [[torch.ones(1, dtype=torch.float64)]])
    zero = difference_forms(gradient, [weight], [[torch.zeros(1, dtype=torch.float64)]])
    assert zero.tolist() == [0.0]


def test_attention_needs_another_way():
    q = torch.randn(2, 2, 8, 4, requires_grad=True)
    v = [torch.randn_like(q)]
    with pytest.raises(NoSecondDerivativeError):
        hessian_forms(F.scaled_dot_product_attention(q, q, q).square().sum(), [q], [v])
    with sdpa_kernel(SDPBackend.MATH):
        want = hessian_forms(F.scaled_dot_product_attention(q, q, q).square().sum(), [q], [v])

    def gradient():
        return torch.autograd.grad(F.scaled_dot_product_attention(q, q, q).square().sum(), [q])

    assert torch.allclose(difference_forms(gradient, [q], [v]), want, rtol=0.05)


def test_other_errors_come_through():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError, match="does not require grad"):
        hessian_forms(torch.tensor(1.0), [weight], [[torch.ones(2)]])
    with pytest.raises(RuntimeError, match="does not require grad"):
        gauss_newton_forms(torch.tensor(1.0), weight * 2, [weight], [[torch.ones(2)]])
    with pytest.raises(ValueError, match="outputs"):
        gauss_newton_forms(weight.sum(), weight * 2, [weight], [[torch.ones(2)]])


def test_a_linear_loss_has_no_curvature():
    weight, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    v = [torch.ones(2), torch.ones(1)]
    assert hessian_forms((weight * 3).sum(), [weight, unused], [v]).tolist() == [0.0]
    outputs = weight * 3
    assert gauss_newton_forms(outputs.sum(), outputs, [weight, unused], [v]).tolist() == [0.0]


def test_the_graph_stays_for_lightnings_backward():
    module, x, y = problem()
    parameters = list(module.parameters())
    F.cross_entropy(module(x), y).backward()
    plain = [p.grad.clone() for p in parameters]
    module.zero_grad()
    loss = F.cross_entropy(module(x), y)
    hessian_forms(loss, parameters, vectors(module))
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, plain, strict=True))


def test_inner_is_summed_by_chunks():
    torch.manual_seed(0)
    a = torch.rand(3_000_000) + 0.5
    half = a[:5000].to(torch.bfloat16)
    assert float(inner([a], [a])) == pytest.approx(float((a.double() ** 2).sum()), rel=1e-6)
    assert float(inner([half], [half])) == pytest.approx(
        float((half.double() ** 2).sum()), rel=1e-2
    )


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * (1 - ctx.saved_tensors[0].tanh() ** 2)


def test_a_function_that_hides_its_second_derivative_is_found():
    """``autograd.grad`` passes by it without an error, and its part of the curvature would be
    missing.
    """
    weight = nn.Parameter(torch.ones(2))
    v = [[torch.ones(2)]]
    with pytest.raises(NoSecondDerivativeError, match="once_differentiable"):
        hessian_forms((Opaque.apply(weight) * weight).sum(), [weight], v)
    outputs = Opaque.apply(weight) * weight
    with pytest.raises(NoSecondDerivativeError, match="once_differentiable"):
        gauss_newton_forms(outputs.square().sum(), outputs, [weight], v)
