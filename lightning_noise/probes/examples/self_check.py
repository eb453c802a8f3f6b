"""Is the sum of the per-example gradients the gradient?

Every use of a parameter outside the calls of its layers shows here.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.probes.double_float import Wide, read, wide_zeros
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.precision import working
from lightning_noise.probes.norms import as_dense, squared_norm

TOLERANCE = 1e-4  # of the parameter's own gradient, in single precision
ROUNDING = 4  # units of the coarsest precision in which a gradient was computed
# Of the tolerance: a difference this small relative to the gradient of all parameters is rounding,
# as in the bias of the keys of attention.
NEGLIGIBLE = 0.1
NOT_THE_SUM = (
    "its gradient is not the sum over the examples that its layers saw, as it is used elsewhere "
    "too (a weight penalty in the loss) or the rule of its layer is wrong"
)
UNSEEN = "no call of its layer was seen, as a function uses it or forward was called directly"


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a − b, where either may be sparse; sparse if both are."""
    if a.layout != b.layout:
        a = as_dense(a)
        b = as_dense(b)
    return a - b


class SelfCheck:
    """Compares the gradient of every covered parameter with what the hooks saw.

    It may extend over several backward passes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._totals: dict[str, Tensor] = {}
        self._residual: defaultdict[str, list[Wide]] = defaultdict(list)
        self._seen: defaultdict[str, list[Wide]] = defaultdict(list)
        self._coarsest: defaultdict[str, float] = defaultdict(float)
        self._called: set[str] = set()
        self._open = False

    @contextmanager
    def attach(self, parameters: Mapping[str, Parameter]) -> Iterator[None]:
        """Hooks the parameters: a hook gets the gradient of one backward pass alone."""
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

    def add(
        self,
        name: str,
        total: Tensor,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        """Notes the sum over the examples for one use of a parameter."""
        before = self._totals.get(name)
        if before is not None:
            total = before + total
        self._totals[name] = total
        for dtype in dtypes:
            self._coarsen(name, dtype)
        self._called.add(name)

    def _coarsen(self, name: str, dtype: torch.dtype) -> None:
        eps = torch.finfo(dtype).eps
        self._coarsest[name] = max(self._coarsest[name], eps)

    def _compare(self, name: str, grad: Tensor | None) -> None:
        """Notes how far a gradient is from the sum of its uses so far.

        A gradient that comes in parts (reentrant checkpointing) follows its uses part by part.
        """
        residual = self._totals.pop(name, None)
        if grad is not None:
            self._coarsen(name, grad.dtype)
            grad = working(grad)
            self._seen[name].append(squared_norm(grad))
            residual = grad if residual is None else difference(residual, grad)
        if residual is not None:
            self._residual[name].append(squared_norm(residual))

    def begin(self) -> None:
        """A backward pass begins."""
        self._open = True

    def end(self) -> None:
        """The backward pass is over.

        What was seen of parameters whose gradient never came is a difference too.
        """
        self._open = False
        for name in list(self._totals):
            self._compare(name, None)

    def verdict(self) -> dict[str, Cause] | None:
        """Parameters to leave out because their gradient is not the sum of what was seen.

        ``None`` if what was seen is not finite, so that nothing can be compared. Waits for the
        device.
        """
        names = list(self._residual)
        if not names:
            return {}
        residual, seen = self._norms_of(names)
        of_all = math.hypot(*seen)
        if not all(map(math.isfinite, (*residual, of_all))):
            return None
        mismatched = {}
        for name, off, own in zip(names, residual, seen, strict=True):
            rounding = ROUNDING * self._coarsest[name]
            tolerance = max(TOLERANCE, rounding)
            if off > tolerance * own and off > NEGLIGIBLE * tolerance * of_all:
                mismatched[name] = self._cause(name, off, own)
        return mismatched

    def _norms_of(self, names: Sequence[str]) -> tuple[list[float], list[float]]:
        """The norms of what is left and of what was seen, in one copy to the host."""
        zero = wide_zeros((), self._device)
        squares: list[Wide] = []
        for parts in (self._residual, self._seen):
            squares += [sum(parts[name], zero) for name in names]
        norms = list(map(math.sqrt, read(squares)))
        return norms[: len(names)], norms[len(names) :]

    def _cause(
        self,
        name: str,
        off: float,
        own: float,
    ) -> Cause:
        if name not in self._called:
            return Cause(UNSEEN)
        if own == 0:
            return Cause(NOT_THE_SUM, "its gradient is zero")
        return Cause(NOT_THE_SUM, f"off by {off / own:.1%}")
