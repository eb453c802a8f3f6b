"""Every example of a step is a group: the probe for one device without accumulation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.examples.coverage import Coverage, CoverageError, Missing, UnsupportedModelError
from lightning_noise.probes.examples.directions import mix
from lightning_noise.probes.examples.inventory import Inventory, take_inventory
from lightning_noise.probes.examples.left_out import left_out
from lightning_noise.probes.examples.mixing import Mixing
from lightning_noise.probes.examples.moments import Pass, example_row
from lightning_noise.probes.examples.refusals import mixed_examples, refuse_coupled
from lightning_noise.probes.examples.self_check import SelfCheck
from lightning_noise.probes.examples.watch import Watch
from lightning_noise.probes.norms import chunk_norms, sum_of_squares
from lightning_noise.probes.probe import Context, Offer, Probe
from lightning_noise.probes.rows import replicated
from lightning_noise.probes.setup import Setup

CHECK_EVERY = 1000  # measured steps
MISMATCH = (
    "its gradient is not the sum over the examples that its layers saw (off by {:.1%}): "
    "it is used elsewhere too, or its layer's rule is wrong"
)
NO_LOSS = (
    "layers and loss: the probe was not given the loss before its backward pass, as with several "
    "optimizers, or in a loop that does not call Monitor.watch_loss"
)


class Examples(Probe):
    """Probe whose groups are the single examples of a step: for one device without accumulation, and of the lowest variance.

    Hooks on the layers give the squared norm of every example's own gradient without building it: random signs project it,
    one thin product more than the layer's backward pass has anyway. The norms are unbiased, a gradient with one position or few
    numbers is exact, and so is everything with ``exact=True`` (at 20 to 45 % of a step instead of a few).

    What must hold: the examples lie along dimension 0 of what the layers get and give, and every layer has a rule
    (:func:`~lightning_noise.probes.examples.registry.register_rule`). At the first measured step and every 1000th the probe
    compares the sum over the examples with the gradient. Parameters for which they differ (weight penalties, functional use of
    a weight), whose layer has no rule, or was called without the batch along dimension 0, are left out of both norms and named
    in :attr:`coverage`. The step in which one is found out gives no row.

    In the same steps the probe follows derivatives through the graph of the loss, where it is given
    the loss (:meth:`watch_loss`). A model or a loss that mixes the examples of a batch is refused.

    Args:
        exact: takes exact norms, the cheaper of building gradients and Gram matrices, instead of sketches.
        sketches: m independent sketches of a gradient; their noise falls as 1/m, their cost grows as m.
        min_coverage: least share of the parameters, and of the squared gradient norm, that must be covered.

    Attributes:
        step_index: index of the optimizer step, which seeds the signs. It counts by itself; set it before the first ``begin``
            of a step for signs that do not depend on what was measured before (resuming, ``every_n_steps``).
        coverage: what is covered; ``None`` before the first ``attach`` or ``survey``.

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

    name = "examples"
    watches_forward = True

    def __init__(self, exact: bool = False, sketches: int = 1, min_coverage: float = 0.9) -> None:
        if not isinstance(exact, bool):
            raise TypeError(f"exact must be a bool, got {exact!r}.")
        if isinstance(sketches, bool) or not isinstance(sketches, int):
            raise TypeError(f"sketches must be an int >= 1, got {sketches!r}.")
        if sketches < 1 or (exact and sketches > 1):
            raise ValueError(f"sketches must be an int >= 1, and 1 with exact=True, got {sketches!r}.")
        if isinstance(min_coverage, bool) or not isinstance(min_coverage, (int, float)):
            raise TypeError(f"min_coverage must be a number, got {min_coverage!r}.")
        if not 0 < min_coverage <= 1:
            raise ValueError(f"min_coverage must lie in (0, 1], got {min_coverage!r}. 0.9 allows a tenth to be left out.")
        self.exact, self.sketches, self.min_coverage = exact, sketches, min_coverage
        self.step_index = 0
        self._replicas = 1
        self._module: nn.Module | None = None
        self._seed = self._rank = 0
        self.coverage: Coverage | None = None
        self._forget()

    def _forget(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._keys: Mapping[Key, Sequence[str]] = {}
        self._uncovered: dict[str, str] = {}  # by structure, or dropped
        self._dropped: dict[str, str] = {}
        self._several: set[str] = set()
        self._square: dict[str, bool] = {}
        self._checked: set[str] = set()
        self._since_check = 0
        self._matched = self._begun = False
        self._refusal: UnsupportedModelError | None = None
        self._mixed: UnsupportedModelError | None = None
        self._unchecked: tuple[str, ...] = ()
        self._last_fault: str | None = None
        self._watch: Watch | None = None
        self._check_hooks = ExitStack()
        self.coverage = None
        self._start_step()

    def _start_step(self) -> None:
        self._squares: list[Tensor] = []
        self._passes: list[Pass] = []
        self._micro_batches = 0
        self._fault: str | None = None
        self._open: Pass | None = None
        self._check: SelfCheck | None = None
        self._mixing: Mixing | None = None
        self._positions: frozenset[str] = frozenset()
        self._checks_mixing = False
        self._check_hooks.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"exact": self.exact, "sketches": self.sketches, "min_coverage": self.min_coverage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # hooks and tensors belong to one process and one fit

    # ---- before training ------------------------------------------------------------------------------------------------

    def bind(self, module: nn.Module, *, seed: int = 0, rank: int = 0) -> None:
        """Names the model whose layers own the parameters; forgets what was found out about an earlier one.

        Raises:
            TypeError: not a module.
            UnsupportedModelError: BatchNorm in train mode ties the examples together.
        """
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
        refuse_coupled(module)
        self._forget()
        self._module, self._seed, self._rank = module, seed, rank

    def survey(self, parameters: Mapping[str, Parameter]) -> Coverage:
        """Which share of ``parameters`` the rules cover, before anything has run.

        Raises:
            RuntimeError: no module was bound.
            CoverageError: less than ``min_coverage``.
            UnsupportedModelError: see :meth:`bind`.
        """
        self._take_inventory(parameters)
        if self._refusal is not None:
            raise self._refusal
        return self.coverage  # type: ignore[return-value]  # set by the inventory

    def attach(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context = Context(),
    ) -> AbstractContextManager[None]:
        """Hooks the layers that own ``parameters``, for the duration of the context.

        Raises:
            RuntimeError, CoverageError, UnsupportedModelError: as :meth:`survey`, at the first time. Later, in mid-run, where
                layers were unfrozen or set to train mode since, :meth:`row` is ``None`` and :meth:`fault` says why.
        """
        self._replicas = context.replicas
        return self._watching(parameters, keys)

    @contextmanager
    def _watching(self, parameters: Mapping[str, Parameter], keys: Mapping[Key, Sequence[str]]) -> Iterator[None]:
        inventory = self._take_inventory(parameters)
        if self._refusal is not None and not self._begun:
            raise self._refusal
        self._keys = keys
        self._watch = Watch(
            inventory,
            self._parameters,
            keys,
            exact=self.exact,
            sketches=self.sketches,
            several=self._several,
            square=self._square,
        )
        self._start_step()
        try:
            with self._watch.attach():
                yield
        finally:
            self._start_step()
            self._watch = None

    def _take_inventory(self, parameters: Mapping[str, Parameter]) -> Inventory:
        if self._module is None:
            raise RuntimeError("Examples.bind(module) must be called before attach: the probe hooks the layers of the model.")
        same = self._parameters.keys() == parameters.keys()
        self._parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        inventory = take_inventory(self._module, self._parameters, self._dropped)
        self._uncovered = inventory.uncovered
        self._cover(self.coverage.grad_sq if self.coverage is not None and same else None)
        try:
            refuse_coupled(self._module)
        except UnsupportedModelError as error:
            self._refusal = error
        return inventory

    def _cover(self, grad_sq: float | None) -> None:
        """States anew what is covered, and whether that is enough."""
        sizes = {name: p.numel() for name, p in self._parameters.items()}
        missing = tuple(Missing(name, sizes[name], reason) for name, reason in self._uncovered.items())
        share = 1 - sum(part.numbers for part in missing) / max(1, sum(sizes.values()))
        self.coverage = Coverage(share, grad_sq, missing)
        enough = self.coverage.least >= self.min_coverage and len(missing) < len(sizes)
        self._refusal = None if enough else CoverageError(self.coverage, self.min_coverage)

    def _covered(self) -> dict[str, Parameter]:
        return {name: p for name, p in self._parameters.items() if name not in self._uncovered}

    @property
    def refusal(self) -> UnsupportedModelError | None:
        """Why no step can be used as things stand. A host should raise it after the first measured step, on all ranks alike."""
        if self._refusal is None and self._begun and not self._matched and self._last_fault is not None:
            return UnsupportedModelError(
                f"the examples probe: {self._last_fault}. Put the examples along dimension 0, give their number where it is "
                "not the length of the first tensor (batch_size_fn), or use the micro_batches probe."
            )
        return self._mixed or self._refusal

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What of the check on mixing could not be made, and why; empty where all of it was."""
        return self._unchecked

    @property
    def doubtful(self) -> list[str]:
        """Layers that always had as many positions as examples: a batch along dimension 1 would not show."""
        return [layer for layer, square in self._square.items() if square]

    # ---- one step -------------------------------------------------------------------------------------------------------

    def offer(self, setup: Setup, model: nn.Module | None, parameters: Mapping[str, Parameter]) -> Offer | Reason:
        """Needs a model whose layers it knows; without ``model`` the one that was bound."""
        try:
            if model is not None:
                self.bind(model, seed=setup.seed, rank=setup.rank)
            self.survey(parameters)
        except UnsupportedModelError as error:
            return Reason("no_examples", Severity.REFUSE, str(error))
        if setup.manual and setup.ranks == 1:
            return Offer("1 rank and manual optimization, so single examples are the groups")
        if setup.ranks * setup.accumulation <= 1:
            return Offer("1 rank and no accumulation, so single examples are the groups")
        return Offer("single examples are the groups, as asked for")

    def accepts(self, rows: int | None, setup: Setup) -> Reason | None:
        """Needs two examples."""
        if rows != 1:
            return None
        return Reason(
            "one_example",
            Severity.REFUSE,
            "two groups of gradients are needed per step, but the batch holds one example and gradients are not accumulated",
            "Use a batch size of 2 or more, or accumulate gradients over two micro-batches or more.",
        )

    def starts(self, step: int) -> None:
        """Seeds the signs of the step that begins."""
        self.step_index = step

    def remarks(self) -> list[str]:
        """What is left out, and what could not be checked."""
        return list(left_out(self))

    def listen(self) -> None:
        """The forward pass of a micro-batch is about to begin. A host whose ``begin`` comes after it must call this before."""
        if self._watch is not None:
            self._watch.listen(record=self._check_is_due())

    def rest(self) -> None:
        """No pass is under way: removes the hooks on layers until the next one begins."""
        if self._watch is not None:
            self._watch.rest()

    def _check_is_due(self) -> bool:
        due = self._since_check >= CHECK_EVERY or not self._checked.issuperset(self._covered())
        return self._micro_batches == 0 and due

    def begin(self, size: float, weight: float, examples: int | None = None) -> None:
        """Opens the gate for one backward pass over ``size`` examples whose loss is multiplied by ``weight``."""
        if self._watch is None:
            return
        examples = examples or round(size)
        self._open, self._begun = Pass(examples, size, weight), True
        if self._check_is_due():
            self._checks_mixing = True
            self._check = SelfCheck(self._watch.norms.device)
        if self._check is not None:
            self._check_hooks.enter_context(self._check.attach(self._covered()))
            self._check.begin()
        self._watch.begin(examples, mix(self._seed, self.step_index, self._micro_batches, self._rank), self._check)

    def watch_loss(self, loss: Tensor) -> None:
        """The loss of the micro-batch that was begun, before its backward pass; the graph stays."""
        due = self._checks_mixing and self._micro_batches == 0 and self._mixing is None
        if self._watch is None or self._open is None or not due:
            return
        seed = mix(self._seed, self.step_index, -1)  # all ranks find the same
        self._mixing = self._watch.check_mixing(loss, seed)

    def end(self) -> None:
        """Closes the gate and adds the examples of the micro-batch to the step."""
        if self._watch is None or self._open is None:
            return
        this, self._open = self._open, None
        seen = self._watch.end()
        self._micro_batches += 1
        self._matched |= seen.matched
        self._positions |= seen.positions
        if self._check is not None:
            self._check.end()
            self._check_hooks.close()
        if seen.fault is not None:
            self._fault = self._fault or seen.fault
            self._check = None  # what it saw may be incomplete: put off to the next step
        self._drop(seen.dropped)
        if this.weight > 0:
            self._squares.append(seen.square)
            self._passes.append(this)

    def _drop(self, reasons: Mapping[str, str]) -> None:
        if reasons:
            self._dropped |= reasons
            self._uncovered = {**self._uncovered, **reasons}
            self._cover(self.coverage.grad_sq if self.coverage is not None else None)
            named = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
            self._fault = self._fault or f"left out from the next step on: {named}"

    def row(self) -> Tensor | None:
        """Moments of the step by key, shape (keys, 4); ``None`` where nothing was seen or too little is covered."""
        row = self._row(self._watch) if self._watch is not None and self._passes else None
        if self._checks_mixing:
            self._settle(self._mixing)
        self._last_fault = self._fault
        if self._mixed is not None:
            self._last_fault = str(self._mixed)
        elif self._last_fault is None and self._refusal is not None:
            self._last_fault = str(self._refusal).splitlines()[0]
        self._start_step()
        self.step_index += 1
        return row if self._last_fault is None else None

    def _row(self, watch: Watch) -> Tensor:
        if self._check is not None:
            self._judge(self._check)
        self._since_check += 1
        covered = self._covered()
        for name, parameter in covered.items():
            if parameter.grad is not None:
                watch.norms.add(watch.norms.cell_of[name], parameter.grad)
        row = example_row(self._squares, watch.norms.total(), self._passes)
        for index, names in enumerate(self._keys.values()):
            if covered.keys().isdisjoint(names):
                row[index] = 0  # none of its layers is covered: the step is not this key's
        return replicated(row, self._replicas)

    def _settle(self, found: Mixing | None) -> None:
        """Takes up what the check on mixing has shown."""
        self._unchecked = (NO_LOSS,) if found is None else found.unchecked
        if found is not None:
            layers = [layer for layer in found.layers if layer not in self._positions]
            self._mixed = mixed_examples(layers, found.loss)

    def _judge(self, check: SelfCheck) -> None:
        """Drops what did not add up and measures the covered share of |ḡ|². Waits for the device."""
        mismatched = check.verdict()
        if mismatched is None:
            return  # an overflow: put off to the next step
        covered = self._covered()
        self._checked |= covered.keys()
        self._since_check = 0
        self._drop({name: MISMATCH.format(off) for name, off in mismatched.items() if name in covered})
        seen = self._squared_norm(self._covered())
        whole = seen + self._squared_norm({name: self._parameters[name] for name in self._uncovered})
        self._cover(seen / whole if whole > 0 else None)

    def _squared_norm(self, parameters: Mapping[str, Parameter]) -> float:
        grads = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
        device = next((grad.device for grad in grads), torch.device("cpu"))
        return float(sum_of_squares([norm for grad in grads for norm in chunk_norms(grad)], device))

    def discard(self) -> None:
        """Forgets the step in progress and finds nothing out from it; calls of layers noted so far still count."""
        if self._watch is not None:
            self._watch.cancel()
        self._start_step()

    def fault(self) -> str | None:
        """What spoiled the latest step, if anything did."""
        return self._last_fault
