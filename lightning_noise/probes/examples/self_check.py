"""Does the sum of the per-example gradients give the gradient? Whatever is outside of the layers' calls shows here."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.probes.examples.contribution import working
from lightning_noise.probes.norms import squared_norm

TOLERANCE = 1e-4  # of the parameter's own gradient, in single precision
ROUNDING = 4  # units of the coarsest precision in which a gradient was computed
NEGLIGIBLE = 0.1  # of the tolerance: a difference so small against the WHOLE gradient is rounding, as in a key's bias


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a − b, where either may be sparse; sparse if both are."""
    if a.layout != b.layout:
        a, b = (x if x.layout == torch.strided else x.to_dense() for x in (a, b))
    return a - b


class SelfCheck:
    """Compares, for each covered parameter, the gradient that arrives with what the hooks saw, in one or more passes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._totals: dict[str, Tensor] = {}
        self._residual: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._seen: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._coarsest: defaultdict[str, float] = defaultdict(float)
        self._open = False

    @contextmanager
    def attach(self, parameters: Mapping[str, Parameter]) -> Iterator[None]:
        """Hooks the parameters: the hook of one gets this backward pass's own gradient."""
        with ExitStack() as stack:
            for name, parameter in parameters.items():
                stack.callback(parameter.register_hook(self._hook(name)).remove)  # type: ignore[no-untyped-call]
            yield

    def _hook(self, name: str) -> Any:
        def see(grad: Tensor) -> None:
            if self._open:
                self._compare(name, grad.detach())

        return see

    def add(self, name: str, total: Tensor, dtypes: Iterable[torch.dtype]) -> None:
        """Notes the sum over examples of one use."""
        self._totals[name] = self._totals[name] + total if name in self._totals else total
        self._coarsest[name] = max(self._coarsest[name], *(torch.finfo(dtype).eps for dtype in dtypes))

    def _compare(self, name: str, grad: Tensor | None) -> None:
        """Gradients that arrive in parts (reentrant checkpointing) follow their uses part by part."""
        total = self._totals.pop(name, None)
        if grad is not None:
            self._coarsest[name] = max(self._coarsest[name], torch.finfo(grad.dtype).eps)
            grad = working(grad)
            self._seen[name].append(squared_norm(grad))
        residual = grad if total is None else total if grad is None else difference(total, grad)
        if residual is not None:
            self._residual[name].append(squared_norm(residual))

    def begin(self) -> None:
        """A backward pass begins."""
        self._open = True

    def end(self) -> None:
        """It is over. What was seen of parameters whose gradient never came is a difference too."""
        self._open = False
        for name in list(self._totals):
            self._compare(name, None)

    def verdict(self) -> dict[str, float] | None:
        """Parameters whose gradient is not the sum of what was seen, with the relative difference; ``None``: not finite.

        Waits for the device.
        """
        names = list(self._residual)
        if not names:
            return {}
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        table = torch.stack([torch.stack([sum(part[n], zero) for n in names]) for part in (self._residual, self._seen)])
        residual, seen = table.sqrt().tolist()
        whole = math.hypot(*seen)
        if not all(map(math.isfinite, (*residual, whole))):
            return None
        mismatched = {}
        for name, off, own in zip(names, residual, seen, strict=True):
            tolerance = max(TOLERANCE, ROUNDING * self._coarsest[name])
            if off > tolerance * own and off > NEGLIGIBLE * tolerance * whole:
                mismatched[name] = off / own if own else math.inf
        return mismatched
