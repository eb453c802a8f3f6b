"""Recurrent layers, whose fused kernels show no gradients of single examples.

The forward pass of the training is left as it is. In the backward pass the operation is computed
once more, step by step, and followed back to its gates: from there on every weight is one of a
linear map. This costs about as much as the layer itself, in measured steps.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_noise.probes.examples.calls.cells import Weights
from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting, Operand
from lightning_noise.probes.examples.calls.operands import batch_of, derived_among, plain
from lightning_noise.probes.examples.calls.placed import Sides
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.calls.unrolled import Called, Trace, traces
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]
LAYERS = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
CELLS = {"lstm_cell": "lstm", "gru_cell": "gru", "rnn_tanh_cell": "rnn_tanh"}
CELLS["rnn_relu_cell"] = "rnn_relu"


class Shape(NamedTuple):
    """How a recurrent operation was called.

    Args:
        kind: of operation.
        biased: whether it has biases.
        directions: 1 or 2.
        batch: dimension of the input that holds the examples.
        item: which of its outputs is followed.
        cell: whether it is a single step.
        composed: whether it is a step whose new state was computed from its new cell by an
            operation of its own, so that the cell's gradient holds the state's, too.
    """

    kind: str
    biased: bool
    directions: int
    batch: int
    item: int
    cell: bool
    composed: bool = False


class RecurrentMeeting(Meeting):
    """One output of a recurrent operation.

    Args:
        weights: all of them, in the operation's order.
        called: how.
    """

    op = "recurrent layer"

    def __init__(self, *args: Any, weights: list[Tensor], called: Shape) -> None:
        super().__init__(*args)
        self.weights = weights
        self.called = called

    def sides(self, own: str) -> Sides | None:
        """Of the matrices among the weights."""
        shape = self.met[own].tensor.shape
        return (shape[0], shape[1]) if len(shape) == 2 else None

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """From the gradients at the gates."""
        called = self.called
        x, *states = (working(tensor) for tensor in inputs)
        if called.cell:
            x, states = x.unsqueeze(0), [state.unsqueeze(0) for state in states]
        elif called.batch == 0:
            x = x.transpose(0, 1)
        cells = states[1] if len(states) > 1 else None
        weights = self._by_layer()
        kind = "lstm, given its cell" if called.composed and called.item == 0 else called.kind
        given = Called(kind, x, states[0], cells, weights, called.directions)
        found: dict[str, Contribution] = {}
        step = 4 if called.biased else 2
        at_output = working(self._time_first(grad))
        for place, trace in enumerate(traces(given, called.item + called.cell, at_output)):
            found |= _parts(trace, place * step)
        return {own: part for own, part in found.items() if own in self.met}

    def _time_first(self, grad: Tensor) -> Tensor:
        """The gradient at the output as the unrolled operation has it: grad has examples first."""
        if self.called.cell:
            return grad.unsqueeze(0)
        return grad.transpose(0, 1)

    def _by_layer(self) -> list[Weights]:
        step = 4 if self.called.biased else 2
        found: list[Weights] = []
        for start in range(0, len(self.weights), step):
            matrices = [working(w) for w in self.weights[start : start + step]]
            w_ih, w_hh, b_ih, b_hh = [*matrices, None, None][:4]
            found.append(Weights(w_ih, w_hh, b_ih, b_hh))  # type: ignore[arg-type]
        return found


def _parts(trace: Trace, first: int) -> dict[str, Contribution]:
    """Of the weights of one layer in one direction, by their numbers from ``first`` on."""
    of_input = trace.slopes.at_input.transpose(0, 1)  # (B, T, G)
    of_state = trace.slopes.at_state.transpose(0, 1)
    return {
        f"weight {first}": Outer(of_input, trace.inputs.transpose(0, 1)),
        f"weight {first + 1}": Outer(of_state, trace.before.transpose(0, 1)),
        f"weight {first + 2}": Dense(of_input.sum(1)),
        f"weight {first + 3}": Dense(of_state.sum(1)),
    }


def layer(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``torch.lstm(input, hx, weights, has_biases, layers, dropout, train, bidirectional, …)``."""
    if not isinstance(seen.args[3], bool):
        raise NotPerExample(f"{seen.name} was called with a packed sequence")
    x, hx, weights, biased, layers, dropout, train, bidirectional, batch_first = seen.args
    if dropout > 0 and train and layers > 1:
        raise NotPerExample(f"{seen.name} has dropout between its layers, which cannot be repeated")
    directions = 2 if bidirectional else 1
    if len(weights) != layers * directions * (4 if biased else 2):
        raise NotPerExample(f"{seen.name} has projections (proj_size)")
    batch = 0 if batch_first else 1
    if batch_of(seen, x) != Fold(at.fold.examples, batch):
        raise NotPerExample(f"{seen.name} has the examples in another place")
    called = Shape(seen.name, biased, directions, batch, seen.item, cell=False)
    return _meeting(seen, at, parameters, x, hx, list(weights), called)


def cell(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``torch.lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh)``."""
    x, hx = seen.args[:2]
    weights = [w for w in seen.args[2:6] if w is not None]
    plain(batch_of(seen, x), x.shape, seen.name)
    nodes = {x.grad_fn for x in seen.results}
    composed = seen.name == "lstm_cell" and len(nodes) > 1
    called = Shape(CELLS[seen.name], len(weights) == 4, 1, 0, seen.item, True, composed)
    return _meeting(seen, at, parameters, x, hx, weights, called)


def _meeting(
    seen: Seen,
    at: Arrangement,
    parameters: Parameters,
    x: Tensor,
    hx: Any,
    weights: list[Tensor],
    called: Shape,
) -> Meeting:
    states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    if any(isinstance(seen.fact(state), Derived) for state in states):
        raise NotPerExample(f"it is the first state of {seen.name}")
    operands: dict[str, Operand] = derived_among(
        seen, {f"weight {n}": weight for n, weight in enumerate(weights)}
    )
    values = [weight.detach() for weight in weights]
    return RecurrentMeeting(operands, (x, *states), at, parameters, weights=values, called=called)


def layout(seen: Seen, out: Tensor) -> Fold | None:
    """Outputs as the input; the last states have layers in front."""
    if seen.name in CELLS:
        found = {fold for _, fold in seen.batch}
        return found.pop() if len(found) == 1 else None
    x = seen.args[0]
    fold = seen.fact(x)
    if not isinstance(fold, Fold) or x.dim() != 3:
        return None
    return fold if seen.item == 0 else Fold(fold.examples, 1)


MEETINGS = {**dict.fromkeys(LAYERS, layer), **dict.fromkeys(CELLS, cell)}
LAYOUTS = dict.fromkeys((*LAYERS, *CELLS), layout)
