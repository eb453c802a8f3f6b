"""One probe at frozen weights: the gradients of many examples, and the curvature of
further ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_noise.core.curvature_average import CurvatureProbe, moments_from_forms
from lightning_noise.core.moments import Moments
from lightning_noise.probes.norms import as_dense, chunk_norms, sum_of_squares
from lightning_noise.probes.second_derivatives import (
    NoSecondDerivativeError,
    difference_forms,
    gauss_newton_forms,
    hessian_forms,
    refuse_reentrant,
)

CURVED = ("hessian", "gauss_newton")
Loss = Callable[[Any], Any]  # batch → mean loss over its examples, or (loss, outputs)
# (index of the parameter, gradient) → chunk norms of P^(1/2)·gradient
Weighted = Callable[[int, Tensor], list[Tensor]]


class Batch(NamedTuple):
    """A micro-batch and how many examples it holds."""

    content: Any
    size: float


class PauseProbe(NamedTuple):
    """What one probe says, by geometry.

    Args:
        flat: moments of "euclidean" and, where asked for, "optimizer".
        curved: "hessian" and "gauss_newton".
        examples: used.
    """

    flat: dict[str, Moments]
    curved: dict[str, CurvatureProbe]
    examples: float


class Pause:
    """Takes probes at frozen weights, with two buffers of the gradient's size whatever the number
    of examples.

    Args:
        loss: batch → mean loss; with ``gauss_newton`` (loss, outputs).
        parameters: those that require a gradient.
        geometries: what to measure.
        weighted: chunk norms in the optimizer's metric, for "optimizer".
    """

    def __init__(
        self,
        loss: Loss,
        parameters: Sequence[Parameter],
        geometries: Sequence[str],
        weighted: Weighted | None = None,
    ) -> None:
        self._loss = loss
        self._parameters = list(parameters)
        self._curved = [name for name in geometries if name in CURVED]
        metrics: dict[str, Weighted] = {"euclidean": lambda _, gradient: chunk_norms(gradient)}
        if "optimizer" in geometries and weighted is not None:
            metrics["optimizer"] = weighted
        self._metrics = metrics

    def probe(self, batches: Iterator[Batch], pairs: int) -> PauseProbe:
        """One probe from so many pairs of micro-batches, and for a curvature from further ones,
        about three for four pairs.

        Both micro-batches of a pair add to the mean gradient; the difference between them has none
        of the true gradient in it.
        """
        squares = self._zeros(self._metrics)
        mean: list[Tensor] = []
        forms: list[dict[str, float]] = []  # uᵀMu of a contrast, by geometry
        c_contrasts: list[float] = []
        size = seen = 0.0
        for pair in range(pairs):
            contrast, sizes = self._pair(batches, mean, squares)
            size += sum(sizes)
            if self._curved and pair % 2 == 0:
                form, used = self._curvature(batches, 1, contrast)
                forms.append(form)
                c_contrasts.append(sum(1 / b for b in sizes))
                seen += used
        for part in mean:
            part.div_(size)
        c_small, c_big = 2 * pairs / size, 1 / size  # Σ w_i/b_i with w_i = b_i/n
        flat: dict[str, Moments] = {}
        for name, norms in self._metrics.items():
            q_small = float(squares[name]) / size
            q_big = float(self._square(mean, norms))
            flat[name] = Moments(q_small, q_big, c_small, c_big)
        if not self._curved:
            return PauseProbe(flat, {}, size)
        along, used = self._curvature(batches, max(1, pairs // 4), mean)
        curved: dict[str, CurvatureProbe] = {}
        for name, along_mean in along.items():
            along_contrasts = [found[name] for found in forms]
            moments = moments_from_forms(along_mean, c_big, along_contrasts, c_contrasts)
            indefinite = float(min(along_mean, *along_contrasts) <= 0)
            curved[name] = CurvatureProbe(moments, flat["euclidean"], indefinite)
        return PauseProbe(flat, curved, size + seen + used)

    def _zeros(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: torch.zeros((), dtype=torch.float64, device=self._device) for name in names}

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def _pair(
        self, batches: Iterator[Batch], mean: list[Tensor], squares: dict[str, Tensor]
    ) -> tuple[list[Tensor], tuple[float, float]]:
        """Difference of two micro-batches' gradients, and their sizes; adds b_i g_i to ``mean``,
        b_i|g_i|² to ``squares``.
        """
        first, second = next(batches), next(batches)
        contrast = self._take(first, mean, squares)
        for a, b in zip(contrast, self._take(second, mean, squares), strict=True):
            a.sub_(b)
        return contrast, (first.size, second.size)

    def _take(self, batch: Batch, mean: list[Tensor], squares: dict[str, Tensor]) -> list[Tensor]:
        gradient = self._gradient(batch.content)
        for name, norms in self._metrics.items():
            squares[name] += batch.size * self._square(gradient, norms)
        if not mean:
            mean += [torch.zeros_like(g) for g in gradient]
        for total, g in zip(mean, gradient, strict=True):
            total.add_(g, alpha=batch.size)
        return gradient

    def _square(self, gradient: Sequence[Tensor], norms: Weighted) -> Tensor:
        parts: list[Tensor] = []
        for index, g in enumerate(gradient):
            parts += norms(index, g)
        square: Tensor = sum_of_squares(parts, self._device)
        return square

    def _gradient(self, content: Any) -> list[Tensor]:
        loss, _ = _split(self._loss(content))
        refuse_reentrant(loss)
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        found = [g.detach() for g in gradients]
        if self._curved:
            return [as_dense(g) for g in found]
        return found

    # ---- curvature ------------------------------------------------------------------------------

    def _curvature(
        self, batches: Iterator[Batch], count: int, vector: list[Tensor]
    ) -> tuple[dict[str, float], float]:
        """The form of ``vector`` by geometry, over so many micro-batches that no gradient has seen,
        and their examples.
        """
        totals = self._zeros(self._curved)
        size = 0.0
        for _ in range(count):
            batch = next(batches)
            for name in totals:
                totals[name] += batch.size * self.form(name, batch.content, vector)
            size += batch.size
        return {name: float(total) / size for name, total in totals.items()}, size

    def form(self, name: str, content: Any, vector: list[Tensor]) -> Tensor:
        state = _random_state(self._device)
        with sdpa_kernel(SDPBackend.MATH):  # the other attention kernels have no double backward
            loss, outputs = _split(self._loss(content))
            if name == "gauss_newton":
                if outputs is None:
                    raise TypeError(GAUSS_NEWTON_OUTPUTS)
                return gauss_newton_forms(loss, outputs, self._parameters, [vector])[0]
            try:
                return hessian_forms(loss, self._parameters, [vector])[0]
            except NoSecondDerivativeError:
                del loss, outputs
        return difference_forms(lambda: self._repeat(content, state), self._parameters, [vector])[0]

    def _repeat(self, content: Any, state: Any) -> list[Tensor]:
        """The gradient with the random numbers of an earlier forward pass."""
        _set_random_state(self._device, state)
        return self._gradient(content)


GAUSS_NEWTON_OUTPUTS = (
    "geometry 'gauss_newton' needs a loss_fn that returns (loss, outputs), the outputs being the "
    "tensor that the loss was computed from, but it returned a loss alone. Use geometry='hessian', "
    "which needs no outputs."
)


def _split(returned: Any) -> tuple[Tensor, Tensor | None]:
    loss, outputs = returned, None
    if isinstance(returned, tuple) and len(returned) == 2:
        loss, outputs = returned
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(
            f"loss_fn must return the mean loss as a tensor with one number, or (loss, outputs), "
            f"got {returned!r}."
        )
    if not loss.requires_grad:
        raise ValueError(
            "loss_fn must return a loss that depends on the module's parameters, but it has no "
            "graph: it was detached."
        )
    return loss.reshape(()), outputs


def _random_state(device: torch.device) -> Any:
    on_device = None
    if device.type == "cuda":
        on_device = torch.cuda.get_rng_state(device)
    return torch.get_rng_state(), on_device


def _set_random_state(device: torch.device, state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


__all__ = ["CURVED", "GAUSS_NEWTON_OUTPUTS", "Batch", "Pause", "PauseProbe"]
