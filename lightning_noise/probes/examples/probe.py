"""Every example of a step is a group: the probe for one device without accumulation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.examples.arguments import check_arguments, check_module
from lightning_noise.probes.examples.attachment import Attachment
from lightning_noise.probes.examples.coverage import Coverage
from lightning_noise.probes.examples.errors import UnsupportedModelError
from lightning_noise.probes.examples.model import Model
from lightning_noise.probes.examples.offers import ONE_EXAMPLE, as_reason, offer_for
from lightning_noise.probes.examples.remarks import remarks_on
from lightning_noise.probes.examples.step import Pass
from lightning_noise.probes.examples.uncompiled import EVERY
from lightning_noise.probes.examples.watch import Watch
from lightning_noise.probes.probe import Context, Offer, Probe
from lightning_noise.probes.setup import Setup


class Examples(Probe):
    """Probe whose groups are the single examples of a step: on one device without accumulation.

    With exact norms it has the lowest variance of all probes. Hooks on the layers give the squared
    norm of the gradient of every example without building it. Random signs project the gradient, at
    the cost of one thin product in addition to the backward pass of the layer. The norms are
    unbiased. Those of gradients with one position or few elements are exact. With ``exact=True``
    all norms are exact, at 20 to 45 % of a step instead of a few.

    Layers with a rule (:func:`~lightning_noise.probes.examples.registry.register_rule`) are hooked.
    The examples must lie along dimension 0 of their inputs and outputs. For all other parameters
    the probe watches the calls of torch's functions in which they meet the batch, and follows where
    the examples lie from call to call. At the first measured step and every 1000th, the probe
    compares the sum over the examples with the gradient. Parameters for which the two differ are
    watched in calls from then on. If they differ there, too (weight penalties), they are left out
    of both norms and named in :attr:`coverage`. A step in which such a parameter is found gives no
    row.

    In the same steps the probe follows derivatives through the graph of the loss, provided that it
    is given the loss (:meth:`watch_loss`). It refuses a model or a loss that mixes the examples of
    a batch.

    Args:
        exact: whether to take exact norms instead of sketches. They come from per-example gradients
            or Gram matrices, whichever is cheaper.
        sketches: m, the number of independent sketches of a gradient. Their noise falls as 1/m, and
            their cost grows as m. Four give an interval of the same width in about half the steps
            where the noise scale is several batches and one layer carries most of the gradient.
        min_coverage: smallest share of the parameters, and of the squared gradient norm, to cover.
        eager: whether measured steps run without ``torch.compile``, in which hooks on layers do not
            fire. Every 20th step is measured, unless the host names another cadence. All other
            steps stay compiled. A measured step may differ from a compiled one by rounding, and
            under inductor in the random numbers of dropout.
        calls: whether to watch calls of torch's functions for parameters that no layer's rule
            covers.

    Attributes:
        step_index: index of the optimizer step, which seeds the signs. The probe counts it; a host
            sets it with :meth:`starts`, so that the signs do not depend on what was measured before
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

    def __init__(
        self,
        exact: bool = False,
        sketches: int = 1,
        min_coverage: float = 0.9,
        eager: bool = False,
        calls: bool = True,
    ) -> None:
        check_arguments(exact, sketches, min_coverage, eager, calls)
        self.exact = exact
        self.sketches = sketches
        self.min_coverage = min_coverage
        self.eager = eager
        self.calls = calls
        self.every_n_steps = EVERY if eager else 1
        self.step_index = 0
        self._model: Model | None = None
        self._attached: Attachment | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            "exact": self.exact,
            "sketches": self.sketches,
            "min_coverage": self.min_coverage,
            "eager": self.eager,
            "calls": self.calls,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # hooks and tensors belong to one process and one fit
        self.__init__(**state)  # type: ignore[misc]  # as if built anew

    def bind(self, module: nn.Module, *, seed: int = 0, rank: int = 0) -> None:
        """Sets the model whose layers own the parameters, and forgets all about an earlier one.

        Raises:
            TypeError: ``module`` is not a module.
            UnsupportedModelError: BatchNorm in train mode ties the examples together.
        """
        check_module(module)
        self._attached = None
        self._model = Model(
            module, self.min_coverage, seed, rank, calls=self.calls, eager=self.eager
        )

    def offer(
        self,
        setup: Setup,
        model: nn.Module | None,
        parameters: Mapping[str, Parameter],
    ) -> Offer | Reason:
        """Needs a model whose layers have rules: ``model``, or else the one that was bound."""
        try:
            if model is not None:
                self.bind(model, seed=setup.seed, rank=setup.rank)
            self.survey(parameters)
        except UnsupportedModelError as error:
            return as_reason(error)
        return offer_for(setup, eager=self.eager)

    def accepts(self, rows: int | None, setup: Setup) -> Reason | None:
        """Needs two examples."""
        if rows == 1:
            return ONE_EXAMPLE
        return None

    def survey(self, parameters: Mapping[str, Parameter]) -> Coverage:
        """Which share of ``parameters`` the rules cover, before anything has run.

        Raises:
            RuntimeError: no module was bound.
            CoverageError: the share is less than ``min_coverage``.
            UnsupportedModelError: see :meth:`bind`.
        """
        scope = self._bound().scope
        scope.survey(parameters)
        if scope.refusal is not None:
            raise scope.refusal
        return scope.coverage  # type: ignore[return-value]  # the survey sets it

    @contextmanager
    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> Iterator[None]:
        """Hooks the layers that own ``parameters``, for the duration of the context.

        Args:
            parameters: to watch, by name.
            keys: for each noise scale, the names of the parameters that it is summed over.
            context: of the run. With ``replicas``, a row is the part of this replica in the row of
                the step.

        Raises:
            RuntimeError, CoverageError, UnsupportedModelError: as :meth:`survey`, the first time.
                In the middle of a run, after layers were unfrozen or set to train mode, :meth:`row`
                returns ``None`` instead and :meth:`fault` gives the reason.
        """
        model = self._bound()
        inventory = model.scope.survey(parameters)
        if model.scope.refusal is not None and not model.begun:
            raise model.scope.refusal
        watch = Watch(
            inventory,
            model.module,
            model.scope.parameters,
            keys,
            exact=self.exact,
            sketches=self.sketches,
            several=model.several,
        )
        attachment = Attachment(model, watch, keys, context.replicas)
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
        if self._model is None:
            return None
        return self._model.scope.coverage

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why currently no step can be used.

        A host should raise it after the first measured step, on all ranks.
        """
        if self._model is None:
            return None
        return self._model.refusal

    @property
    def undecided(self) -> bool:
        """Whether parameters were handed over to the watch on calls in the latest step."""
        return self._model is not None and self._model.handed

    @property
    def unchecked(self) -> tuple[str, ...]:
        """The parts of the check on mixing that could not be made, and why."""
        if self._model is None:
            return ()
        return self._model.checks.unchecked

    @property
    def doubtful(self) -> list[str]:
        """Layers that always had as many positions as examples."""
        if self._model is None:
            return []
        return self._model.doubtful

    @property
    def left_out(self) -> float | None:
        """Share of the squared gradient norm that is not covered, as of the latest check."""
        return 0.0 if self.coverage is None else self.coverage.left_out

    def remarks(self) -> list[str]:
        """What a user should know about the estimate: one line per kind of reason for doubt."""
        return remarks_on(self.doubtful, self.unchecked, self.coverage)

    def fault(self) -> Reason | None:
        """What spoiled the latest step, if anything did."""
        if self._model is None:
            return None
        return self._model.last_fault

    def starts(self, step: int) -> None:
        """The optimizer step of this index begins."""
        self.step_index = step

    def listen(self, examples: int | None = None) -> None:
        """The forward pass of a micro-batch is about to begin.

        A host that calls :meth:`begin` after the forward pass must call this before it, with the
        number of examples along dimension 0 where it is known.
        """
        if self._attached is not None:
            self._attached.listen(examples)

    def rest(self) -> None:
        """No pass is in progress: removes the hooks on layers until the next one begins."""
        if self._attached is not None:
            self._attached.rest()

    def begin(self, size: float, weight: float, examples: int | None = None) -> None:
        """Opens the gate for one backward pass.

        Args:
            size: of the micro-batch, in what the host counts.
            weight: what its loss was multiplied by.
            examples: along dimension 0, where ``size`` counts something else (tokens).
        """
        if self._attached is not None:
            begun = Pass(examples or round(size), size, weight)
            self._attached.begin(begun, self.step_index)

    def watch_loss(self, loss: Tensor) -> None:
        """Shows the loss of the open micro-batch before its backward pass; its graph is kept."""
        if self._attached is not None:
            self._attached.watch_loss(loss, self.step_index)

    def end(self) -> None:
        """Closes the gate and adds the examples of the micro-batch to the step."""
        if self._attached is not None:
            self._attached.end()

    def row(self) -> Wide | None:
        """Returns the moments of the step by key, shape (keys, 4), and forgets the step.

        ``None`` where nothing was seen or too little is covered.
        """
        self.step_index += 1
        if self._attached is None:
            return None
        row = self._attached.row()
        if self.fault() is not None:
            return None
        return row

    def discard(self) -> None:
        """Forgets the step in progress and what it has shown. Calls noted so far still count."""
        if self._attached is not None:
            self._attached.discard()
