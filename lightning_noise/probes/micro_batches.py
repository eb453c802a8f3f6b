"""Every micro-batch of a step is a group, seen before gradients are accumulated or reduced."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


class MicroBatches(Probe):
    """Probe whose groups are the micro-batches of a step on every rank.

    It serves gradient accumulation and plain DDP. A hook on a parameter fires before the gradient
    is accumulated into ``.grad`` and before any strategy reduces it, so it sees the gradient of the
    micro-batch alone, also inside ``no_sync`` and with ``torch.compile``. Gradients that are taken
    outside ``begin``…``end``, such as gradient penalties by ``torch.autograd.grad``, are not seen.

    In one backward pass the gradient of a parameter may arrive in several parts (reentrant
    checkpointing of a shared parameter). Its gradient is the sum of the parts. The first such step
    is skipped; in later steps the parts are kept and added up.

    The gradients of small parameters are held until the backward pass is over, at most a few
    megabytes, and their norms are taken together. Where the pass has made ``.grad`` and nothing
    reduces it, they are read from there.

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
        self._holding = False  # whether hooks on small parameters hold what they see
        self._held: dict[str, list[Tensor]] = {}  # gradients of small parameters in this pass
        self._reads_grad = False  # whether .grad is left as the backward pass makes it
        self._views: set[str] = set()  # their gradients are parts of larger tensors
        self._views_known = False
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
            self._hook_gradients(stack)
            try:
                yield
            finally:
                self._forget_pass()
                self._held = {}
                self._norms.clear()

    def _norms_of(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context,
    ) -> KeyedNorms:
        return KeyedNorms(parameters, keys, context.diagonal)

    def _hook_gradients(self, stack: ExitStack) -> None:
        small: Mapping[str, Parameter] = {}
        if self._norms is not None:
            small = self._norms.small
        self._held = {name: [] for name in self._parameters if name in small}
        # a strategy may have reduced .grad when the pass is over, and a user's hook changed it
        self._reads_grad = self._replicas == 1 and not any(
            parameter._post_accumulate_grad_hooks for parameter in self._parameters.values()
        )
        for name, parameter in self._parameters.items():
            see = self._hold(name) if name in small else self._hook(name)
            stack.callback(parameter.register_hook(see).remove)

    def _hold(self, name: str) -> Callable[[Tensor], None]:
        held = self._held[name]
        views = self._views

        # this runs for every small parameter in every pass, so it does no more than it must
        def hold(grad: Tensor) -> None:
            if self._holding:
                held.append(grad.clone() if name in views else grad)

        return hold

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
        self._holding = not self._makes_gradients()

    def _makes_gradients(self) -> bool:
        """Whether ``.grad`` of every small parameter will be the gradient of this pass alone."""
        if not self._reads_grad:
            return False
        return all(self._parameters[name].grad is None for name in self._held)

    def end(self) -> None:
        """Closes the gate and adds the micro-batch to the step as one group."""
        if not self._open or self._norms is None:
            return
        self._norms.see_all(self._small_gradients())
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

    def _small_gradients(self) -> dict[str, Tensor]:
        """Of this pass, by name."""
        found: dict[str, Tensor] = {}
        if not self._holding:
            for name in self._held:
                gradient = self._parameters[name].grad
                if gradient is not None:
                    found[name] = gradient
            return found
        for name, held in self._held.items():
            if len(held) == 1:
                found[name] = held[0]
            elif held:
                self._take_parts(name, held)
        self._find_views(found)
        return found

    def _find_views(self, gradients: Mapping[str, Tensor]) -> None:
        """Notes whose gradient is a view: to hold it is to hold all of the larger tensor."""
        if self._views_known:
            return
        self._views_known = True
        for name, gradient in gradients.items():
            base = gradient._base  # no public way
            if base is not None and base.numel() > gradient.numel():
                self._views.add(name)

    def _take_parts(self, name: str, held: Sequence[Tensor]) -> None:
        if name in self._in_parts:
            self._parts[name] = list(held)
        else:
            self._in_parts.add(name)
            self._fault = _in_parts(name)

    def _forget_pass(self) -> None:
        self._open = False
        self._holding = False
        self._parts = {}
        for held in self._held.values():
            held.clear()

    def row(self) -> Wide | None:
        """Moments of the step, shape (keys, 4), with the big norm from ``.grad``.

        ``None`` where no group was seen.
        """
        groups = self._groups
        square = self._square
        fault = self._fault
        self._reset()
        self._last_fault = fault
        if fault is not None or self._norms is None:
            return None
        if square is None:
            self._last_fault = NO_GROUP
            return None
        self._norms.add_gradients(self._parameters)
        total = total_weight(groups)  # not 1 in a short last window
        row = step_row(
            square / total,
            self._norms.total() / total**2,
            c_small=sum(weight / total / size for size, weight in groups),
            c_big=inverse_effective_size(groups),
        )
        return replicated(self._norms.leave_out_absent(row), self._replicas)

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
