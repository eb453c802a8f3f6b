"""Recurrent layers step by step, so that the gradients at their gates can be had."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Weights(NamedTuple):
    """Of one layer in one direction.

    Args:
        w_ih: shape (G, inputs); G is the number of gates times the width.
        w_hh: shape (G, width).
        b_ih: shape (G,), or ``None``.
        b_hh: shape (G,), or ``None``.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None


class Trace(NamedTuple):
    """What one layer in one direction has computed with.

    Args:
        inputs: shape (T, B, inputs).
        before: states before each step, each of shape (B, width).
        at_input: zeros added to what the inputs give to the gates, shape (T, B, G).
        at_state: zeros added to what the state gives to the gates, each of shape (B, G).
    """

    inputs: Tensor
    before: list[Tensor]
    at_input: Tensor
    at_state: list[Tensor]


class Unrolled(NamedTuple):
    """The outputs of a recurrent operation, and the traces of its layers and directions.

    Args:
        outputs: as the operation gives them, time first.
        traces: layer by layer, the direction forward before the one backward.
    """

    outputs: tuple[Tensor, ...]
    traces: list[Trace]


# new state, and new cell, from what inputs and state give to the gates
Step = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]


def _lstm(inputs: Tensor, state: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    i, f, g, o = (inputs + state).chunk(4, -1)
    kept = 0 if c is None else f.sigmoid() * c
    cell = kept + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _lstm_given_cell(
    inputs: Tensor, state: Tensor, h: Tensor, c: Tensor | None
) -> tuple[Tensor, Tensor]:
    _, cell = _lstm(inputs, state, h, c)
    cell = cell.detach()
    return (inputs + state).chunk(4, -1)[3].sigmoid() * cell.tanh(), cell


def _gru(inputs: Tensor, state: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, None]:
    (r_in, z_in, n_in), (r_h, z_h, n_h) = inputs.chunk(3, -1), state.chunk(3, -1)
    reset, update = (r_in + r_h).sigmoid(), (z_in + z_h).sigmoid()
    new = (n_in + reset * n_h).tanh()
    return new + update * (h - new), None


def _tanh(inputs: Tensor, state: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, None]:
    return (inputs + state).tanh(), None


def _relu(inputs: Tensor, state: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, None]:
    return (inputs + state).relu(), None


STEPS: dict[str, Step] = {
    "lstm": _lstm,
    "lstm, given its cell": _lstm_given_cell,
    "gru": _gru,
    "rnn_tanh": _tanh,
    "rnn_relu": _relu,
}


def unroll(
    kind: str,
    x: Tensor,
    states: Tensor,
    cells: Tensor | None,
    weights: list[Weights],
    directions: int,
) -> Unrolled:
    """Computes a recurrent operation again, with a graph from the gates on.

    Args:
        kind: of ``STEPS``.
        x: shape (T, B, inputs).
        states: at the start, shape (layers · directions, B, width).
        cells: likewise; ``None`` but for an LSTM.
        weights: layer by layer, the direction forward before the one backward.
        directions: 1 or 2.
    """
    traces: list[Trace] = []
    last: list[Tensor] = []
    last_cells: list[Tensor] = []
    with torch.enable_grad():
        for start in range(0, len(weights), directions):
            outputs: list[Tensor] = []
            for place in range(start, start + directions):
                cell = None if cells is None else cells[place]
                found, trace, state, cell = _run(
                    kind, x, states[place], cell, weights[place], backward=place > start
                )
                outputs.append(found)
                traces.append(trace)
                last.append(state)
                last_cells += [] if cell is None else [cell]
            x = torch.cat(outputs, -1)
        ends = [torch.stack(last)]
        if last_cells:
            ends.append(torch.stack(last_cells))
    return Unrolled((x, *ends), traces)


def _run(
    kind: str,
    x: Tensor,
    state: Tensor,
    cell: Tensor | None,
    weights: Weights,
    *,
    backward: bool,
) -> tuple[Tensor, Trace, Tensor, Tensor | None]:
    """One layer in one direction: outputs (T, B, width), trace, last state and cell."""
    step = STEPS[kind]
    at_input = x.new_zeros(*x.shape[:2], len(weights.w_ih)).requires_grad_()
    gates = functional.linear(x, weights.w_ih, weights.b_ih) + at_input
    times = range(len(x))
    outputs: dict[int, Tensor] = {}
    before: dict[int, Tensor] = {}
    at_state: dict[int, Tensor] = {}
    for time, gate in _in_order(times, gates.unbind(0), backward):
        before[time] = state
        at_state[time] = torch.zeros_like(gate).requires_grad_()
        recurrent = functional.linear(state, weights.w_hh, weights.b_hh) + at_state[time]
        state, cell = step(gate, recurrent, state, cell)
        outputs[time] = state
    trace = Trace(
        x.detach(), [before[t].detach() for t in times], at_input, [at_state[t] for t in times]
    )
    return torch.stack([outputs[t] for t in times]), trace, state, cell


def _in_order(times: range, gates: tuple[Tensor, ...], backward: bool) -> list[tuple[int, Tensor]]:
    pairs = list(zip(times, gates, strict=True))
    return pairs[::-1] if backward else pairs
