"""Every example of a step is a group: the probe for one device without accumulation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.examples.arguments import check_arguments
from lightning_noise.probes.examples.attachment import Attachment
from lightning_noise.probes.examples.coverage import Coverage
from lightning_noise.probes.examples.errors import UnsupportedModelError
from lightning_noise.probes.examples.model import Model
from lightning_noise.probes.examples.refusals import coupled_examples
from lightning_noise.probes.examples.remarks import remarks_on
from lightning_noise.probes.examples.step import Pass
from lightning_noise.probes.examples.watch import Watch
from lightning_noise.probes.probe import Context, Offer, Probe
from lightning_noise.probes.setup import Setup

NO_EXAMPLES = "no_examples"
ONE_EXAMPLE = Reason(
    "one_example",
    Severity.REFUSE,
    "two groups of gradients are needed per step, but the batch holds one example and gradients "
    "are not accumulated",
    "Use a batch size of 2 or more, or accumulate gradients over two micro-batches or more.",
)


class Examples(Probe):
    """Probe whose groups are the single examples of a step: on one device without accumulation.

    It has the lowest variance of all probes. Hooks on the layers give the squared norm of every
    example's own gradient without building it: random signs project it, one thin product more than
    the layer's backward pass has anyway. The norms are unbiased, a gradient with one position or
    few numbers is exact, and so is everything with ``exact=True`` (at 20 to 45 % of a step instead
    of a few).

    What must hold: the examples lie along dimension 0 of what the layers get and give, and every
    layer has a rule (:func:`~lightning_noise.probes.examples.registry.register_rule`). At the first
    measured step and every 1000th the probe compares the sum over the examples with the gradient.
    Parameters for which they differ (weight penalties, functional use of a weight), whose layer has
    no rule, or was called without the batch along dimension 0, are left out of both norms and named
    in :attr:`coverage`. The step in which one is found gives no row.

    In the same steps the probe follows derivatives through the graph of the loss, where it is given
    the loss (:meth:`watch_loss`). A model or a loss that mixes the examples of a batch is refused.

    Args:
        exact: takes exact norms, the cheaper of building gradients and Gram matrices, instead of
            sketches.
        sketches: m independent sketches of a gradient; their noise falls as 1/m, their cost grows
            as m.
        min_coverage: least share of the parameters, and of the squared gradient norm, that must be
            covered.

    Attributes:
        step_index: index of the optimizer step, which seeds the signs. It counts by itself; a host
            sets it by :meth:`starts` for signs that do not depend on what was measured before
            (resuming, ``every_n_steps``).

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> import torch
    >>> model, probe = nn.Linear(2, 2), Examples()
    >>> probe.bind(model)
    >>> with probe.attach(dict(model.named_parameters()), {Key(): ["weight", "bias"]}):
    ...     probe.begin(size=2, weight=1.0)
    ...     model(torch.tensor([[1.0, 4.0], [5.0, 0.5]])).sum(1).mean().backward()
    ...     probe.end()
    ...     probe.row()
    tensor([[44.2500, 30.1250,  1.0000,  0.5000]], dtype=torch.float64)
    """

    name: ClassVar[str] = "examples"
    watches_forward: ClassVar[bool] = True

    def __init__(self, exact: bool = False, sketches: int = 1, min_coverage: float = 0.9) -> None:
        check_arguments(exact, sketches, min_coverage)
        self.exact = exact
        self.sketches = sketches
        self.min_coverage = min_coverage
        self.step_index = 0
        self._model: Model | None = None
        self._attached: Attachment | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            "exact": self.exact,
            "sketches": self.sketches,
            "min_coverage": self.min_coverage,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # hooks and tensors belong to one process and one fit
        self.__init__(**state)  # type: ignore[misc]  # as if built anew

    def bind(self, module: nn.Module, *, seed: int = 0, rank: int = 0) -> None:
        """Names the model whose layers own the parameters; forgets what an earlier one has shown.

        Raises:
            TypeError: not a module.
            UnsupportedModelError: BatchNorm in train mode ties the examples together.
        """
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
        refusal = coupled_examples(module)
        if refusal is not None:
            raise refusal
        self._attached = None
        self._model = Model(module, self.min_coverage, seed, rank)

    def offer(
        self, setup: Setup, model: nn.Module | None, parameters: Mapping[str, Parameter]
    ) -> Offer | Reason:
        """Needs a model whose layers it knows; without ``model``, the one that was bound."""
        try:
            if model is not None:
                self.bind(model, seed=setup.seed, rank=setup.rank)
            self.survey(parameters)
        except UnsupportedModelError as error:
            fix = f"{error.fix}. {error.otherwise}".rstrip()
            return Reason(NO_EXAMPLES, Severity.REFUSE, error.cause, fix)
        if setup.manual and setup.ranks == 1:
            return Offer("1 rank and manual optimization, so single examples are the groups")
        if setup.ranks * setup.accumulation <= 1:
            return Offer("1 rank and no accumulation, so single examples are the groups")
        return Offer("single examples are the groups, as asked for")

    def accepts(self, rows: int | None, setup: Setup) -> Reason | None:
        """Needs two examples."""
        return ONE_EXAMPLE if rows == 1 else None

    def survey(self, parameters: Mapping[str, Parameter]) -> Coverage:
        """Which share of ``parameters`` the rules cover, before anything has run.

        Raises:
            RuntimeError: no module was bound.
            CoverageError: less than ``min_coverage``.
            UnsupportedModelError: see :meth:`bind`.
        """
        scope = self._bound().scope
        scope.survey(parameters)
        if scope.refusal is not None:
            raise scope.refusal
        return scope.coverage  # type: ignore[return-value]  # the survey sets it

    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> AbstractContextManager[None]:
        """Hooks the layers that own ``parameters``, for the duration of the context.

        Args:
            parameters: to watch, by name.
            keys: for each number wanted, the names of the parameters it is summed over.
            context: of the run; with ``replicas``, rows are this replica's part in the step's.

        Raises:
            RuntimeError, CoverageError, UnsupportedModelError: as :meth:`survey`, at the first
                time. Later, in mid-run, where layers were unfrozen or set to train mode since,
                :meth:`row` is ``None`` and :meth:`fault` gives the reason.
        """
        return self._watching(parameters, keys, context.replicas)

    @contextmanager
    def _watching(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        replicas: int,
    ) -> Iterator[None]:
        model = self._bound()
        inventory = model.scope.survey(parameters)
        if model.scope.refusal is not None and not model.begun:
            raise model.scope.refusal
        watch = Watch(
            inventory,
            model.scope.parameters,
            keys,
            exact=self.exact,
            sketches=self.sketches,
            several=model.several,
        )
        attachment = Attachment(model, watch, keys, replicas)
        self._attached = attachment
        try:
            with attachment.open():
                yield
        finally:
            self._attached = None

    def _bound(self) -> Model:
        if self._model is None:
            why = "the probe hooks the layers of the model"
            raise RuntimeError(f"Call Examples.bind(module) before attach or survey: {why}.")
        return self._model

    @property
    def coverage(self) -> Coverage | None:
        """What is covered; ``None`` before the first :meth:`attach` or :meth:`survey`."""
        return None if self._model is None else self._model.scope.coverage

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why no step can be used as things stand.

        A host should raise it after the first measured step, on all ranks alike.
        """
        return None if self._model is None else self._model.refusal

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What of the check on mixing could not be made, and why; empty where all of it was."""
        return () if self._model is None else self._model.checks.unchecked

    @property
    def doubtful(self) -> list[str]:
        """Layers that always had as many positions as examples."""
        return [] if self._model is None else self._model.doubtful

    def remarks(self) -> list[str]:
        """What a user should know about the number: one line per kind of reason for doubt."""
        return remarks_on(self.doubtful, self.unchecked, self.coverage)

    def fault(self) -> str | None:
        """What spoiled the latest step, if anything did."""
        return None if self._model is None else self._model.last_fault

    def starts(self, step: int) -> None:
        """The optimizer step of this index begins."""
        self.step_index = step

    def listen(self) -> None:
        """The forward pass of a micro-batch is about to begin.

        A host whose ``begin`` comes after it must call this before.
        """
        if self._attached is not None:
            self._attached.listen()

    def rest(self) -> None:
        """No pass is under way: removes the hooks on layers until the next one begins."""
        if self._attached is not None:
            self._attached.rest()

    def begin(self, size: float, weight: float, examples: int | None = None) -> None:
        """Opens the gate for one backward pass.

        Args:
            size: of the micro-batch, in what the host counts.
            weight: on its loss.
            examples: along dimension 0, where ``size`` counts something else (tokens).
        """
        if self._attached is not None:
            begun = Pass(examples or round(size), size, weight)
            self._attached.begin(begun, self.step_index)

    def watch_loss(self, loss: Tensor) -> None:
        """The loss of the micro-batch that was begun, before its backward pass; the graph stays."""
        if self._attached is not None:
            self._attached.watch_loss(loss, self.step_index)

    def end(self) -> None:
        """Closes the gate and adds the examples of the micro-batch to the step."""
        if self._attached is not None:
            self._attached.end()

    def row(self) -> Tensor | None:
        """Moments of the step by key, shape (keys, 4), and a fresh start for the next.

        ``None`` where nothing was seen or too little is covered.
        """
        self.step_index += 1
        if self._attached is None:
            return None
        row = self._attached.row()
        return row if self.fault() is None else None

    def discard(self) -> None:
        """Forgets the step in progress and what it has shown; calls noted so far still count."""
        if self._attached is not None:
            self._attached.discard()
