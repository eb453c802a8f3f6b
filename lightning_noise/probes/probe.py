"""The contract of a probe: a way to see the gradients of the groups in one optimizer step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.setup import Setup

Diagonal = Callable[[Parameter], Tensor | None]
EUCLIDEAN = frozenset({"euclidean"})
WHOLE_GRADIENTS = EUCLIDEAN | {"optimizer"}
NO_GROUP = Reason(
    "no_group",
    Severity.SKIP,
    "no micro-batch of weight above 0 was seen in the step",
    "Announce every backward pass, with the weight of its loss.",
)


class Offer(NamedTuple):
    """A probe can serve a run.

    Args:
        reason: what the groups are, in words for the user.
        certain: whether every step will have two groups; if not, some steps will be skipped.
    """

    reason: str
    certain: bool = True


class Context(NamedTuple):
    """What a probe is given when it is attached.

    Args:
        replicas: ranks that the row is to be a part of, see
            :func:`~lightning_noise.probes.rows.replicated`.
        diagonal: the optimizer's preconditioner of a parameter, where keys of geometry "optimizer"
            are measured.
        tap: shows gradient buckets, where the strategy has one.
    """

    replicas: int = 1
    diagonal: Diagonal | None = None
    tap: Any = None


class Probe(ABC):
    """A way to see the gradients of the groups that make up one optimizer step.

    A host enters the context of :meth:`attach` for as long as passes are to be seen. Inside it, the
    host calls :meth:`starts` at the first micro-batch of a step. For every micro-batch it calls
    :meth:`listen` before the forward pass, :meth:`begin` before the backward pass,
    :meth:`watch_loss` after that, and :meth:`end` after the backward pass. After the last
    micro-batch it calls :meth:`row`, before gradients are unscaled, clipped or used.

    A probe never changes a gradient, never waits for the device in a step and never draws from the
    global random state.

    A custom probe derives from this class and defines :meth:`attach`, :meth:`begin`, :meth:`end`
    and :meth:`row`. The other methods have defaults.

    Attributes:
        name: for messages, and to request it by name.
        metrics: geometries in which it can weigh gradients.
        watches_forward: whether it needs :meth:`listen`, because it hooks layers and not gradients.
        sees_every_pass: whether it sees every backward pass of a step, not only the last one.
        sees_shards: whether it is for models that FSDP has sharded, and for no others. A hook on a
            sharded parameter sees nothing.
        every_n_steps: measures the first of every so many optimizer steps, where the user names no
            cadence.
    """

    name: ClassVar[str] = "given"
    metrics: ClassVar[frozenset[str]] = EUCLIDEAN
    watches_forward: ClassVar[bool] = False
    sees_every_pass: ClassVar[bool] = True
    sees_shards: ClassVar[bool] = False
    every_n_steps: int = 1

    def offer(
        self,
        setup: Setup,
        model: nn.Module | None,
        parameters: Mapping[str, Parameter],
    ) -> Offer | Reason:
        """Whether this probe can serve the run, and with what groups.

        Returns:
            An :class:`Offer`, or a :class:`Reason` with its fix if it cannot serve the run.
        """
        return Offer("given by the user")

    @abstractmethod
    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> AbstractContextManager[None]:
        """Watches ``parameters`` inside the context.

        ``keys`` lists, for each noise scale to measure, the names that it is summed over.
        """

    def starts(self, step: int) -> None:  # noqa: B027  # does nothing unless overridden
        """A measured optimizer step begins; ``step`` counts all optimizer steps."""

    def listen(self, examples: int | None = None) -> None:  # noqa: B027  # as above
        """The forward pass of a micro-batch is about to begin.

        ``examples`` is the length of its batch dimension, where the host knows it.
        """

    def rest(self) -> None:  # noqa: B027  # does nothing unless overridden
        """The passes over a micro-batch are over.

        No hook may stay on the model's layers until the next micro-batch begins.
        """

    def accepts(self, rows: int | None, setup: Setup) -> Reason | None:
        """Why a first micro-batch with so many rows along dimension 0 cannot be measured.

        ``None`` where it can.
        """
        return None

    @abstractmethod
    def begin(
        self,
        size: float,
        weight: float,
        examples: int | None = None,
    ) -> None:
        """The backward pass of a micro-batch is about to begin.

        Args:
            size: examples in the micro-batch, or whatever the host counts (tokens).
            weight: what its loss was multiplied by.
            examples: length of the batch dimension, where ``size`` counts something else.
        """

    def watch_loss(self, loss: Tensor) -> None:  # noqa: B027  # does nothing unless overridden
        """Shows the loss of the micro-batch that was begun, before its backward pass.

        The probe must leave the graph of the loss as it is.
        """

    @abstractmethod
    def end(self) -> None:
        """The backward pass of this micro-batch is over."""

    @abstractmethod
    def row(self) -> Wide | None:
        """Returns the moments of the step that was seen, and forgets it.

        Returns:
            An fp64 tensor of shape (keys, 4) on the gradients' device, with columns as in
            :class:`~lightning_noise.core.moments.Moments`. It is the part of this replica: the sum
            over all replicas is the row of the step. ``q_big`` is taken from ``.grad``, which the
            strategy has averaged over all replicas. ``None`` where the step cannot be used.
            On a device without fp64 it is a
            :class:`~lightning_noise.probes.double_float.DoubleFloat`, or a tensor on the host.
        """

    def fault(self) -> Reason | None:
        """Why the latest row was ``None``: a reason of severity SKIP.

        Steps are counted by it, so a text that differs in every step gives as many counts.
        """
        return None

    def discard(self) -> None:
        """Forgets what was seen since the last :meth:`row`, an open micro-batch included."""
        self.end()
        self.row()

    @property
    def refusal(self) -> NoiseScaleError | None:
        """Why no step can be used, which may be known only after a first backward pass.

        ``None`` where steps can be used.
        """
        return None

    @property
    def left_out(self) -> float | None:
        """Share of the squared gradient norm that rows do not cover; ``None``: not known."""
        return 0.0

    @property
    def undecided(self) -> bool:
        """Whether a refusal may still come in the next step, as the latest one left it open."""
        return False

    def remarks(self) -> Sequence[str]:
        """Reasons to doubt the estimate, to report with it: what is left out or not checked."""
        return ()
