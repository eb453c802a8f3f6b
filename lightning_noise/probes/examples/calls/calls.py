"""Watches the calls in which parameters meet the batch, where no layer's hook sees them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from lightning_noise.probes.examples.calls.facts import Facts
from lightning_noise.probes.examples.calls.fast_paths import Pauses, modules_of
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.met_linear import LinearMeeting
from lightning_noise.probes.examples.calls.mode import Interception
from lightning_noise.probes.examples.calls.notebook import Met, Notebook
from lightning_noise.probes.examples.calls.operations import Operation
from lightning_noise.probes.examples.calls.saved import as_saved
from lightning_noise.probes.examples.calls.seen import tensors_in
from lightning_noise.probes.examples.contribution import Form
from lightning_noise.probes.examples.coverage import Cause
from lightning_noise.probes.examples.inventory import Slot, common_form
from lightning_noise.probes.examples.listener import Listener, in_backward_pass, in_torch_func
from lightning_noise.probes.examples.output import source_of


class Calls:
    """Intercepts calls in forward passes, only while there are parameters to watch.

    Args:
        model: whose buffers and other parameters are constants here.
        watched: parameters to watch, by name.
        listener: follows the outputs of calls to their gradients.
    """

    def __init__(
        self, model: nn.Module, watched: Mapping[str, nn.Parameter], listener: Listener
    ) -> None:
        self._model = model
        self._watched = dict(watched)
        self._listener = listener
        self._mode = Interception(self._note)
        self._pauses = Pauses(self._mode.remove, self._resume)
        self._hooks = ExitStack()
        self._book: Notebook | None = None
        self._offers: dict[str, list[tuple[Form, ...]]] = {}
        listener.ask(self._elsewhere)

    def _elsewhere(self, output: Tensor) -> Fold | None:
        """Where the examples lie in a layer's output, if not one by one along dimension 0."""
        fact = None if self._book is None else self._book.facts.known(output)
        if not isinstance(fact, Fold):
            return None
        plain = fact == Fold(fact.examples) and len(output) == fact.examples
        return None if plain else fact

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watches these, too, from the next forward pass on."""
        self._watched |= parameters

    def begin(self, examples: int | None) -> None:
        """A forward pass over so many examples begins; ``None``: nobody knows how many."""
        self._offers = {}
        if not self._watched:
            return
        if self._book is not None and examples in (None, self._book.facts.examples):
            self._book.refused.clear()  # another pass over tensors that may be known
            return
        modules = modules_of(self._model)
        self._book = Notebook(Facts(examples, _held_by(modules), self._watched), self._watched)
        self._hooks = self._pauses.attach(modules)
        self._mode.enter()

    def rest(self) -> None:
        """No longer intercepts."""
        self._mode.remove()
        self._hooks.close()
        self._book = None

    def _resume(self, given: Tensor | None, output: Any) -> None:
        """Goes on behind a fused module, whose output has the examples where its input has them."""
        self._mode.enter()
        for x in tensors_in(output):
            if self._book is not None and given is not None and x.dim() == given.dim():
                self._book.facts.learn(x, self._book.facts.of(given))
                break

    @property
    def watched(self) -> Mapping[str, nn.Parameter]:
        """By name."""
        return self._watched

    @property
    def refused(self) -> dict[str, Cause]:
        """Parameters that met the batch in a way that shows no per-example gradients."""
        if self._book is None:
            return {}
        return {name: Cause(reason) for name, reason in self._book.refused.items()}

    def form(self, name: str) -> Form | None:
        """How a parameter is sketched, in all calls of the forward pass alike."""
        offers = self._offers.get(name)
        return common_form(offers) if offers else None

    def _note(
        self,
        operation: Operation,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        if self._book is None:
            return
        if in_torch_func():
            self._book.hide(args, "it is used inside of torch.func")
            return
        try:
            meetings = self._book.note(operation, function, args, kwargs, out)
        except Exception as error:  # tensors of unusual kinds; training goes on without them
            self._book.lose(args, out, f"{operation.name} was called in an unknown way ({error})")
            return
        for met in meetings:
            self._follow(met)  # not above: checkpointing ends its work by an exception from here

    def _follow(self, met: Met) -> None:
        meeting = met.meeting
        names = meeting.names
        if not in_backward_pass():
            for own, form in meeting.offers().items():
                self._offers.setdefault(names[own], []).append(form)
        layer = sorted(names.values())[0].rpartition(".")[0]
        operands: dict[str, Tensor] = {own: self._watched[name] for own, name in names.items()}
        slot = Slot(layer, self._model, meeting, lambda: meeting, names, operands)
        source = source_of(met.out, met.given)
        layout = source.layout._replace(fold=meeting.at.fold)
        inputs = meeting.release()
        if isinstance(meeting, LinearMeeting):
            inputs = tuple(as_saved(x, met.out) for x in inputs)
        self._listener.follow(slot, source._replace(layout=layout), inputs)


def _held_by(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Buffers, and tensors that modules hold without having registered them.

    They are looked up before every forward pass: a cache may have been computed in the last one.
    """
    found: list[Tensor] = []
    for module in modules:
        found += [x for x in module._buffers.values() if x is not None]
        found += [x for x in vars(module).values() if isinstance(x, Tensor)]
    return found
