"""Does the sum of the per-example gradients give the gradient?

Whatever is outside of the layers' calls shows here.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.norms import as_dense, squared_norm

TOLERANCE = 1e-4  # of the parameter's own gradient, in single precision
ROUNDING = 4  # units of the coarsest precision in which a gradient was computed
# Of the tolerance: a difference so small against the WHOLE gradient is rounding, as in the bias of
# a key.
NEGLIGIBLE = 0.1
NOT_THE_SUM = (
    "its gradient is not the sum over the examples that its layers saw, as it is used elsewhere "
    "too (a weight penalty in the loss) or the rule of its layer is wrong"
)
UNSEEN = "no call of its layer was seen, as a function uses it or forward was called directly"


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a − b, where either may be sparse; sparse if both are."""
    if a.layout != b.layout:
        a, b = as_dense(a), as_dense(b)
    return a - b


class SelfCheck:
    """Compares, per covered parameter, the gradient that arrives with what the hooks saw.

    It may go on over several passes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._totals: dict[str, Tensor] = {}
        self._residual: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._seen: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._coarsest: defaultdict[str, float] = defaultdict(float)
        self._called: set[str] = set()
        self._open = False

    @contextmanager
    def attach(self, parameters: Mapping[str, Parameter]) -> Iterator[None]:
        """Hooks the parameters: the hook of one gets this backward pass's own gradient."""
        with ExitStack() as stack:
            for name, parameter in parameters.items():
                hook = parameter.register_hook(self._hook(name))
                stack.callback(hook.remove)
            yield

    def _hook(self, name: str) -> Any:
        def see(grad: Tensor) -> None:
            if self._open:
                self._compare(name, grad.detach())

        return see

    def add(self, name: str, total: Tensor, dtypes: Iterable[torch.dtype]) -> None:
        """Notes the sum over examples of one use."""
        before = self._totals.get(name)
        self._totals[name] = total if before is None else before + total
        for dtype in dtypes:
            self._coarsen(name, dtype)
        self._called.add(name)

    def _coarsen(self, name: str, dtype: torch.dtype) -> None:
        self._coarsest[name] = max(self._coarsest[name], torch.finfo(dtype).eps)

    def _compare(self, name: str, grad: Tensor | None) -> None:
        """Gradients that come in parts (reentrant checkpointing) follow their uses part by part."""
        total = self._totals.pop(name, None)
        if grad is not None:
            self._coarsen(name, grad.dtype)
            grad = working(grad)
            self._seen[name].append(squared_norm(grad))
        if total is not None and grad is not None:
            residual: Tensor | None = difference(total, grad)
        else:
            residual = grad if total is None else total
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

    def verdict(self) -> dict[str, Cause] | None:
        """Why parameters are left out whose gradient is not the sum of what was seen.

        ``None``: what was seen is not finite, so that nothing can be compared. Waits for the
        device.
        """
        names = list(self._residual)
        if not names:
            return {}
        rows = [self._added(self._residual, names), self._added(self._seen, names)]
        residual, seen = torch.stack(rows).sqrt().tolist()
        whole = math.hypot(*seen)
        if not all(map(math.isfinite, (*residual, whole))):
            return None
        mismatched = {}
        for name, off, own in zip(names, residual, seen, strict=True):
            tolerance = max(TOLERANCE, ROUNDING * self._coarsest[name])
            if off > tolerance * own and off > NEGLIGIBLE * tolerance * whole:
                mismatched[name] = self._cause(name, off, own)
        return mismatched

    def _added(self, parts: Mapping[str, list[Tensor]], names: Iterable[str]) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        return torch.stack([sum(parts[name], zero) for name in names])

    def _cause(self, name: str, off: float, own: float) -> Cause:
        if name not in self._called:
            return Cause(UNSEEN)
        return Cause(NOT_THE_SUM, f"off by {off / own:.1%}" if own else "its gradient is zero")
