"""Every micro-batch of one optimizer step is a group, seen by tensor hooks before accumulation and
reduction.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.keyed_norms import KeyedNorms
from lightning_noise.probes.probe import WHOLE_GRADIENTS, Context, Offer, Probe
from lightning_noise.probes.rows import replicated, step_row
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.words import count

ONE_GROUP = "one_group"
TEXTS = {
    ONE_GROUP: (
        "two groups of gradients are needed per step, but there is one: one rank, and one "
        "micro-batch per step",
        "Accumulate gradients over two micro-batches or more, each smaller by the same factor, or "
        "use more ranks.",
    )
}


class MicroBatches(Probe):
    """Probe whose groups are the micro-batches of a step on every rank: for gradient accumulation
    and for plain DDP.

    A hook on a parameter fires before the gradient is accumulated into ``.grad`` and before any
    strategy reduces it, so it sees the micro-batch's own gradient, also inside ``no_sync`` and with
    ``torch.compile``. Gradients taken outside ``begin``…``end``, such as gradient penalties by
    ``torch.autograd.grad``, are not seen. A parameter whose gradient arrives in several parts in
    one backward pass (reentrant checkpointing of a shared parameter) has one gradient, the sum of
    its parts: the first such step is skipped, in later ones the parts are held and added up.

    Weights need not sum to 1: Lightning divides every micro-batch loss by
    ``accumulate_grad_batches``, in a short last window too. So they are normalised by their sum,
    which is the same on all ranks.

    The cost is one norm of the gradient a micro-batch, one or two percent of a training step on few
    examples.
    """

    name = "micro_batches"
    metrics = WHOLE_GRADIENTS

    def __init__(self) -> None:
        self._replicas = 1
        self._open = False
        self._size = self._weight = 1.0
        self._norms: KeyedNorms | None = None
        self._parameters: dict[str, Parameter] = {}
        self._in_parts: set[str] = set()  # parameters known to get their gradient in parts
        self._parts: dict[str, list[Tensor]] = {}
        self._seen: set[str] = set()
        self._groups: list[tuple[float, float]] = []
        self._square: Tensor | None = None
        self._fault: str | None = None
        self._last_fault: str | None = None

    def offer(
        self,
        setup: Setup,
        model: nn.Module | None,
        parameters: Mapping[str, Parameter],
    ) -> Offer | Reason:
        """Needs two micro-batches per step, on one rank or several."""
        unknown = setup.manual or setup.accumulation == 0
        if unknown and setup.ranks == 1:
            return Offer(
                "the backward passes between two steps on 1 rank are the groups, and steps on one "
                "pass are skipped",
                certain=False,
            )
        accumulation = max(1, setup.accumulation)
        certain = setup.ranks * accumulation > 1
        if not certain:
            accumulation = max(accumulation, setup.most_accumulation)  # some steps will be skipped
        groups = setup.ranks * accumulation
        if groups < 2:
            return Reason(ONE_GROUP, Severity.REFUSE, *TEXTS[ONE_GROUP])
        where = f"{count(accumulation, 'micro-batch')} per step on {count(setup.ranks, 'rank')}"
        return Offer(f"{where} are {groups} groups", certain=certain)

    @contextmanager
    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> Iterator[None]:
        """Hooks every parameter that requires a gradient, for the duration of the context."""
        self._norms = KeyedNorms(parameters, keys, context.diagonal)
        self._replicas = context.replicas
        self._parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self._reset()
        with ExitStack() as stack:
            for name, parameter in self._parameters.items():
                hook = self._hook(name)
                stack.callback(parameter.register_hook(hook).remove)
            try:
                yield
            finally:
                self._open = False
                self._parts = {}
                self._norms.clear()

    def _hook(self, name: str) -> Any:
        def see(grad: Tensor) -> None:
            if not self._open:
                return
            if name in self._in_parts:
                self._parts.setdefault(name, []).append(
                    grad.detach().clone()
                )  # accumulation may reuse its memory
            elif name in self._seen:
                self._in_parts.add(name)
                self._fault = (
                    f"the gradient of {name!r} arrived in several parts in one backward pass "
                    f"(reentrant checkpointing of a "
                    "shared parameter); from the next step on the parts are added up first"
                )
            else:
                self._seen.add(name)
                # the norms exist: hooks live only inside attach
                self._norms.see(name, grad)  # type: ignore[union-attr]  # see above

        return see

    def begin(self, size: float, weight: float, examples: int | None = None) -> None:
        """Opens the gate for one backward pass over ``size`` examples whose loss was multiplied by
        ``weight``.
        """
        self._size, self._weight = size, weight
        self._seen.clear()
        self._parts = {}
        self._open = True

    def end(self) -> None:
        """Closes the gate and adds the micro-batch to the step as one group."""
        if not self._open or self._norms is None:
            return
        self._open = False
        for name, parts in self._parts.items():
            self._norms.see(name, sum(parts[1:], parts[0]))
        self._parts = {}
        square = self._norms.total()  # (keys,) |weight · g_i|², scaled
        if self._weight > 0:
            self._square = (
                square / self._weight
                if self._square is None
                else self._square + square / self._weight
            )
            self._groups.append((self._size, self._weight))

    def row(self) -> Tensor | None:
        """Moments of the step, shape (keys, 4); reads the big norm from ``.grad``. ``None`` where
        no group was seen.
        """
        groups, square, fault = self._groups, self._square, self._fault
        self._reset()
        self._last_fault = fault
        if fault is not None or square is None or self._norms is None:
            return None
        self._norms.add_gradients(self._parameters)
        total = sum(weight for _, weight in groups)  # not 1 in a short last window
        row = step_row(
            square / total,
            self._norms.total() / total**2,
            c_small=sum(v / total / b for b, v in groups),
            c_big=sum((v / total) ** 2 / b for b, v in groups),
        )
        return replicated(self._norms.leave_out_absent(row), self._replicas)

    def discard(self) -> None:
        """Forgets the step in progress."""
        self._open = False
        self._parts = {}
        if self._norms is not None:
            self._norms.clear()
        self._reset()

    def fault(self) -> str | None:
        """What spoiled the latest step, if anything did."""
        return self._last_fault

    def _reset(self) -> None:
        self._groups = []
        self._square = self._fault = self._last_fault = None
