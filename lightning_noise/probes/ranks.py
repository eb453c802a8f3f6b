"""Every rank's gradient is a group, seen in DDP's buckets just before they are reduced."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.keyed_norms import KeyedNorms
from lightning_noise.probes.probe import WHOLE_GRADIENTS, Context, Offer, Probe
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

NO_BUCKET = Reason(
    "no_bucket_reduced",
    Severity.SKIP,
    "no gradient bucket was reduced in the step's last backward pass",
    "Let DDP synchronise gradients in the last backward pass of every step.",
)
# (state, bucket) → the reduced buffer
CommHook = Callable[[Any, Any], torch.futures.Future[Tensor]]


class BucketTap:
    """Shows DDP's gradient buckets to its listeners before the communication hook gets them.

    Without a listener it costs one call per bucket.

    >>> tap = BucketTap()
    >>> with tap.listening(lambda bucket: print("saw", bucket)):
    ...     tap("a bucket")
    saw a bucket
    >>> tap("nobody listens")
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[Any], None]] = []

    def __call__(self, bucket: Any) -> None:
        for listener in self._listeners:
            listener(bucket)

    @contextmanager
    def listening(self, listener: Callable[[Any], None]) -> Iterator[None]:
        """Calls ``listener`` with every bucket inside the context."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def before(self, hook: CommHook) -> CommHook:
        """``hook`` with this tap in front, for ``DistributedDataParallel.register_comm_hook``.

        The state that is registered with it is passed on to ``hook``.
        """

        # torch requires a parameter of this name, either without an annotation or annotated with a
        # class that not every build has
        def tapped(state, bucket):  # type: ignore[no-untyped-def]  # called by torch
            self(bucket)
            return hook(state, bucket)

        tapped.__qualname__ = f"tapped {getattr(hook, '__qualname__', hook)}"
        return tapped


def mean_hook(process_group: dist.ProcessGroup | None) -> CommHook:
    """What DDP does without a communication hook, bit for bit.

    It multiplies by 1/world size, then sums over ``process_group``. torch's own ``allreduce_hook``
    divides instead, which rounds differently where the world size is not a power of two.
    """

    def mean(_: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        group = process_group
        if group is None:
            group = dist.group.WORLD
        buffer = bucket.buffer().mul_(1.0 / dist.get_world_size(group))
        work = dist.all_reduce(buffer, group=group, async_op=True)
        future = work.get_future()
        return future.then(lambda done: done.value()[0])  # type: ignore[no-any-return]  # untyped

    return mean


class Ranks(Probe):
    """Probe whose groups are the ranks of DDP.

    The gradient of a rank is accumulated over its micro-batches of the step. This is the cheapest
    probe: it takes one norm of each bucket in the backward pass that synchronises, and one norm of
    the reduced gradient.

    Args:
        tap: in front of DDP's communication hook. ``ddp_noise`` and ``NoiseStrategyMixin`` bring
            their own.
    """

    name = "ranks"
    metrics = WHOLE_GRADIENTS
    sees_every_pass = False

    def __init__(self, tap: BucketTap | None = None) -> None:
        self.tap = tap
        self._replicas = 1
        self._open = False
        self._norms: KeyedNorms | None = None
        self._parameters: dict[str, Parameter] = {}
        self._names: dict[int, str] = {}
        self._one_cell = True
        self._seen = False
        self._groups: list[WeightedGroup] = []
        self._fault: Reason | None = None

    def offer(
        self,
        setup: Setup,
        model: nn.Module | None,
        parameters: Mapping[str, Parameter],
    ) -> Offer | Reason:
        """Needs two ranks, and a strategy that shows the buckets."""
        if setup.tap is None and self.tap is None:
            return Reason(
                "no_buckets",
                Severity.SKIP,
                "the ranks probe reads the buckets of DDP before they are reduced, and nothing "
                "shows them",
                "Use a strategy that does, or the micro_batches probe, which needs no such "
                "strategy.",
            )
        if setup.ranks < 2:
            return Reason(
                "one_rank",
                Severity.SKIP,
                "the ranks probe needs two groups of gradients per step, that is two ranks, but "
                "there is one",
                "Use more ranks, the examples probe, or the micro_batches probe with accumulation.",
            )
        return Offer(
            f"{count(setup.ranks, 'rank')} are {setup.ranks} groups, read from the buckets of DDP"
        )

    @contextmanager
    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> Iterator[None]:
        """Listens to the tap for the duration of the context.

        Raises:
            RuntimeError: there is no tap.
        """
        tap = context.tap or self.tap
        if tap is None:
            raise RuntimeError(
                "Ranks has no BucketTap: use strategy='ddp_noise' or NoiseStrategyMixin, or give "
                "it one."
            )
        self._replicas = context.replicas
        self._norms = KeyedNorms(parameters, keys, context.diagonal)
        self._parameters = trained(parameters)
        self._names = {id(p): name for name, p in self._parameters.items()}
        cells = {self._norms.cell_of[name] for name in self._parameters}
        self._one_cell = len(cells) == 1 and not self._norms.is_weighted
        self._reset()
        with tap.listening(self._see):
            try:
                yield
            finally:
                self._open = False
                self._norms.clear()

    def _see(self, bucket: Any) -> None:
        if not self._open or self._norms is None:
            return
        self._seen = True
        names = [self._names.get(id(p)) for p in bucket.parameters()]
        if self._one_cell and None not in names:
            # (P,) this rank's accumulated gradient, not divided by the world size
            self._norms.add(0, bucket.buffer())
            return
        gradients: dict[str, Tensor] = {}
        for name, gradient in zip(names, bucket.gradients(), strict=True):
            if name is not None:
                gradients[name] = gradient
        self._norms.see_all(gradients)

    def begin(
        self,
        size: float,
        weight: float,
        examples: int | None = None,
    ) -> None:
        """Opens the gate for one backward pass over ``size`` examples.

        ``weight`` is what their loss was multiplied by.
        """
        if weight > 0:
            self._groups.append(WeightedGroup(size, weight))
        self._open = True

    def end(self) -> None:
        """Closes the gate."""
        self._open = False

    def row(self) -> Wide | None:
        """The part of one replica in the moments of the step, shape (keys, 4).

        ``None`` where no bucket was seen.
        """
        groups = self._groups
        seen = self._seen
        self._reset()
        if not seen or not groups or self._norms is None:
            self._fault = NO_BUCKET
            return None
        total = total_weight(groups)
        local = self._norms.total() / total**2
        self._norms.add_gradients(self._parameters)
        reduced = self._norms.total() / total**2
        inverse_size = inverse_effective_size(groups)  # of this rank
        row = step_row(local, reduced, inverse_size, inverse_size)
        return replicated(self._norms.leave_out_absent(row), self._replicas)

    def discard(self) -> None:
        """Forgets the step in progress."""
        self._open = False
        if self._norms is not None:
            self._norms.clear()
        self._reset()

    def fault(self) -> Reason | None:
        """What spoiled the latest step, if anything did."""
        return self._fault

    def _reset(self) -> None:
        self._groups = []
        self._seen = False
        self._fault = None
