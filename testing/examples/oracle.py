"""The slow truth: a loop of single-example ``backward()``; and one measured step of the probe, to
compare with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_noise.core.moments import Key, Moments
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.examples.contribution import Form
from lightning_noise.probes.examples.registry import find_rule

Loss = Callable[[], Tensor]


class Truth(NamedTuple):
    """By parameter: Σ_i |c_i|² and |Σ_i c_i|², c_i what example i adds to the gradient."""

    small: dict[str, float]
    big: dict[str, float]

    def moments(self, examples: int, names: Sequence[str]) -> Moments:
        """Of a step whose groups are the examples."""
        small, big = (sum(part[name] for name in names) for part in self)
        return Moments(examples * small, big, 1.0, 1 / examples)


def loop(model: nn.Module, contributions: Sequence[Loss]) -> Truth:
    """Runs one backward pass an example; ``contributions[i]`` is what example i adds to
    the loss.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    small = dict.fromkeys(parameters, 0.0)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for contribution in contributions:
        model.zero_grad()
        contribution().backward()
        for name, p in parameters.items():
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            if grad.is_sparse:
                grad = grad.to_dense()
            small[name] += float(grad.double().square().sum())
            total[name] += grad
    model.zero_grad()
    return Truth(small, {name: float(grad.double().square().sum()) for name, grad in total.items()})


def keys_of(model: nn.Module) -> dict[Key, list[str]]:
    """The headline and one key a parameter."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return {Key(): names} | {Key(layer=name): [name] for name in names}


def bound(model: nn.Module, *, seed: int = 0, **settings: object) -> Examples:
    """A probe on a model."""
    probe = Examples(**settings)  # type: ignore[arg-type]
    probe.bind(model, seed=seed)
    return probe


def bound_to_layers(model: nn.Module, *, seed: int = 0, **settings: object) -> Examples:
    """A probe on a model that hooks its layers alone."""
    return bound(model, seed=seed, calls=False, **settings)


def step(probe: Examples, model: nn.Module, loss: Loss, size: float) -> dict[str, Moments] | None:
    """One optimizer step of one micro-batch: moments of the whole ("") and of every parameter."""
    keys = keys_of(model)
    with probe.attach(dict(model.named_parameters()), keys):
        model.zero_grad()
        probe.begin(size, 1.0)
        loss().backward()
        probe.end()
        row = probe.row()
    return (
        None
        if row is None
        else {key.layer: Moments(*values) for key, values in zip(keys, row.tolist(), strict=True)}
    )


def losses(layer: nn.Module, x: Tensor) -> tuple[Loss, list[Loss]]:
    """A mean over the batch with random weights at the output, and each example's part in it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        at_output = torch.randn_like(layer(x))

    def part(rows: slice) -> Loss:
        return lambda: (layer(x[rows]) * at_output[rows]).sum() / len(x)

    return part(slice(None)), [part(slice(i, i + 1)) for i in range(len(x))]


def contributions(layer: nn.Module, x: Tensor) -> tuple[dict, Tensor]:
    """What a layer's rule says of one call, and the gradient at its output."""
    rule = find_rule(layer)
    out = layer(x)
    grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    return rule.contributions(dict(layer.named_parameters()), (x,), grad), grad


def forms_of(layer: nn.Module) -> Mapping[str, tuple[Form, ...]]:
    """The sketches that a layer's rule offers, by parameter."""
    rule = find_rule(layer)
    offers = {name: rule.forms(name, parameter) for name, parameter in layer.named_parameters()}
    return {name: forms for name, forms in offers.items() if forms}


def close(found: float, truth: float, tolerance: float, scale: float) -> bool:
    """Relative to the truth, or to what is all rounding against ``scale``."""
    return abs(found - truth) <= tolerance * max(abs(truth), 1e-6 * scale)


def assert_agrees(
    found: dict[str, Moments] | None, truth: Truth, examples: int, tolerance: float = 1e-10
) -> None:
    """Every parameter's moments, and their sum, are the loop's."""
    assert found is not None
    scale = sum(truth.small.values()) * examples
    for name in truth.small:
        wanted = truth.moments(examples, [name])
        assert close(found[name].q_small, wanted.q_small, tolerance, scale), (
            name,
            found[name],
            wanted,
        )
        assert close(found[name].q_big, wanted.q_big, tolerance, scale), (name, found[name], wanted)
        assert found[name][2:] == wanted[2:]
    whole = truth.moments(examples, list(truth.small))
    assert close(found[""].noise, whole.noise, tolerance, scale)
    assert close(found[""].signal, whole.signal, tolerance, scale)
