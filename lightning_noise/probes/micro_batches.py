"""Every micro-batch of a step is a group, seen before gradients are accumulated or reduced."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.keyed_norms import KeyedNorms
from lightning_noise.probes.probe import NO_GROUP, WHOLE_GRADIENTS, Context, Offer, Probe
from lightning_noise.probes.rows import (
    WeightedGroup,
    inverse_effective_size,
    replicated,
    step_row,
    total_weight,
)
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.small_gradients import (
    Held,
    Joined,
    SmallGradients,
    small_gradients,
)
from lightning_noise.probes.trained import trained
from lightning_noise.probes.words import count

ONE_GROUP = Reason(
    "one_group",
    Severity.REFUSE,
    "two groups of gradients are needed per step, but there is one: one rank, and one "
    "micro-batch per step",
    "Accumulate gradients over two micro-batches or more, each smaller by the same factor, or "
    "use more ranks.",
)

REPLACED = Reason(
    "gradient_replaced",
    Severity.SKIP,
    "a gradient was replaced or zeroed while a backward pass was being watched, or added to more "
    "than once; from the next step on hooks see the gradients of small parameters",
)


class MicroBatches(Probe):
    """Probe whose groups are the micro-batches of a step on every rank.

    It serves gradient accumulation and plain DDP. A hook on a parameter fires before the gradient
    is accumulated into ``.grad`` and before any strategy reduces it, so it sees the gradient of the
    micro-batch alone, also inside ``no_sync`` and with ``torch.compile``. Gradients that are taken
    outside ``begin``…``end``, such as gradient penalties by ``torch.autograd.grad``, are not seen.

    In one backward pass the gradient of a parameter may arrive in several parts (reentrant
    checkpointing of a shared parameter). Its gradient is the sum of the parts. The first such step
    is skipped; in later steps the parts are kept and added up.

    The norms of small parameters are taken together when a backward pass is over. Their gradients
    are what the pass has added to ``.grad``. Where it is reduced in the pass, hooks hold them, at
    most a few megabytes.

    Weights need not sum to 1: Lightning divides every micro-batch loss by
    ``accumulate_grad_batches``, also in a short last window. So weights are normalised by their
    sum, which is the same on all ranks.

    The cost is one norm of the gradient per micro-batch: one or two percent of a training step on
    few examples.
    """

    name = "micro_batches"
    metrics = WHOLE_GRADIENTS

    def __init__(self) -> None:
        self._replicas = 1
        self._open = False
        self._size = 1.0
        self._weight = 1.0
        self._norms: KeyedNorms | None = None
        self._parameters: dict[str, Parameter] = {}
        self._in_parts: set[str] = set()  # parameters whose gradient is known to come in parts
        self._parts: dict[str, list[Tensor]] = {}
        self._seen: set[str] = set()
        self._small: SmallGradients | None = None
        self._holds = False  # whether hooks must hold the gradients of small parameters
        self._hooks = ExitStack()  # of the present attachment
        self._groups: list[WeightedGroup] = []
        self._square: Wide | None = None
        self._fault: Reason | None = None
        self._last_fault: Reason | None = None

    def offer(
        self,
        setup: Setup,
        model: nn.Module | None,
        parameters: Mapping[str, Parameter],
    ) -> Offer | Reason:
        """Needs two micro-batches per step, on one rank or several."""
        # DDP writes the mean over the ranks into .grad, even where there is one rank
        self._holds = self._holds or setup.tap is not None
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
            return ONE_GROUP
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
        self._norms = self._norms_of(parameters, keys, context)
        self._replicas = context.replicas
        self._parameters = trained(parameters)
        self._reset()
        with ExitStack() as stack:
            self._hooks = stack
            self._hook_gradients(stack)
            try:
                yield
            finally:
                self._forget_pass()
                self._reset()
                self._small = None
                self._norms.clear()

    def _norms_of(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context,
    ) -> KeyedNorms:
        return KeyedNorms(parameters, keys, context.diagonal)

    def _hook_gradients(self, stack: ExitStack) -> None:
        small: Container[str] = ()
        if self._norms is not None:
            small = frozenset(self._norms.small.names)
            self._small = small_gradients(
                self._norms.small,
                self._parameters,
                replicas=self._replicas,
                hold=self._holds,
            )
            self._small.attach(stack)
        for name, parameter in self._parameters.items():
            if name not in small:
                stack.callback(parameter.register_hook(self._hook(name)).remove)

    def _hook(self, name: str) -> Any:
        def see(grad: Tensor) -> None:
            if not self._open:
                return
            if name in self._in_parts:
                # a copy: accumulation may reuse the memory
                self._parts.setdefault(name, []).append(grad.detach().clone())
            elif name in self._seen:
                self._in_parts.add(name)
                self._fault = _in_parts(name)
            else:
                self._seen.add(name)
                # the norms exist: hooks live only inside attach
                self._norms.see(name, grad)  # type: ignore[union-attr]  # see above

        return see

    def begin(
        self,
        size: float,
        weight: float,
        examples: int | None = None,
    ) -> None:
        """Opens the gate for one backward pass over ``size`` examples.

        ``weight`` is what their loss was multiplied by.
        """
        self._size = size
        self._weight = weight
        self._seen.clear()
        self._parts = {}
        self._open = True
        if self._small is not None:
            self._small.begin()

    def end(self) -> None:
        """Closes the gate and adds the micro-batch to the step as one group."""
        if not self._open or self._norms is None:
            return
        if self._small is not None:
            found = self._small.end()
            if found is None:
                self._fault = REPLACED
            else:
                self._norms.add_joined(found)
        for name, parts in self._parts.items():
            self._norms.see(name, sum(parts[1:], parts[0]))
        self._forget_pass()
        square = self._norms.total()  # (keys,) |weight · g_i|², scaled
        if self._weight > 0:
            share = square / self._weight
            if self._square is not None:
                share = self._square + share
            self._square = share
            self._groups.append(WeightedGroup(self._size, self._weight))

    def _forget_pass(self) -> None:
        self._open = False
        self._parts = {}

    def row(self) -> Wide | None:
        """Moments of the step, shape (keys, 4), with the big norm from ``.grad``.

        ``None`` where no group was seen.
        """
        groups = self._groups
        square = self._square
        fault = self._fault
        small: Joined | None = None
        if self._small is not None and fault is None:
            small = self._small.accumulated()
        self._reset()
        if fault is REPLACED:
            self._hold_small()
        self._last_fault = fault
        if fault is not None or self._norms is None:
            return None
        if square is None:
            self._last_fault = NO_GROUP
            return None
        self._norms.add_gradients(self._parameters, small)
        total = total_weight(groups)  # not 1 in a short last window
        row = step_row(
            square / total,
            self._norms.total() / total**2,
            c_small=sum(weight / total / size for size, weight in groups),
            c_big=inverse_effective_size(groups),
        )
        return replicated(self._norms.leave_out_absent(row), self._replicas)

    def _hold_small(self) -> None:
        """From now on hooks hold the gradients of small parameters."""
        self._holds = True
        if self._norms is not None and self._small is not None:
            self._small = Held(self._norms.small)
            self._small.attach(self._hooks)

    def discard(self) -> None:
        """Forgets the step in progress."""
        self._forget_pass()
        if self._norms is not None:
            self._norms.clear()
        self._reset()

    def fault(self) -> Reason | None:
        """What spoiled the latest step, if anything did."""
        return self._last_fault

    def _reset(self) -> None:
        if self._small is not None:
            self._small.forget()
        self._groups = []
        self._square = None
        self._fault = None
        self._last_fault = None


def _in_parts(name: str) -> Reason:
    """The gradient of a parameter arrived more than once in one backward pass."""
    return Reason(
        "gradient_in_parts",
        Severity.SKIP,
        f"the gradient of {name!r} arrived in several parts in one backward pass (reentrant "
        "checkpointing of a shared parameter); from the next step on the parts are added up first",
    )
