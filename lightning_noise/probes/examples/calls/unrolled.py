"""Recurrent layers step by step, so that the gradients at their gates can be had."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.cells import RUNS, Run, Slopes, Weights


class Called(NamedTuple):
    """A recurrent operation, with what it was given.

    Args:
        kind: of ``RUNS``.
        x: shape (T, B, inputs).
        states: at the start, shape (layers · directions, B, width).
        cells: likewise; ``None`` but for an LSTM.
        weights: layer by layer, the direction forward before the one backward.
        directions: 1 or 2.
    """

    kind: str
    x: Tensor
    states: Tensor
    cells: Tensor | None
    weights: list[Weights]
    directions: int


class Trace(NamedTuple):
    """What one layer in one direction has computed with, in the order in which it takes the steps.

    Args:
        inputs: shape (T, B, inputs).
        before: states before each step, shape (T, B, width).
        slopes: gradients at the gates.
    """

    inputs: Tensor
    before: Tensor
    slopes: Slopes


class _Layer(NamedTuple):
    """One layer: what it was given and its runs, by direction."""

    x: Tensor
    runs: list[Run]

    @property
    def output(self) -> Tensor:
        found: list[Tensor] = []
        for place, run in enumerate(self.runs):
            found.append(_in_order(run.states[1:], place))
        return torch.cat(found, 2) if len(found) > 1 else found[0]


@torch.no_grad()
def traces(called: Called, item: int, grad: Tensor) -> list[Trace]:
    """Computes a recurrent operation again, and goes back through it from one of its outputs.

    Args:
        called: the operation.
        item: 0 for the states of the last layer over time, 1 for the last states, 2 for the last
            cells.
        grad: at this output, shape (T, B, directions · width) or (layers · directions, B, width).

    Returns:
        Layer by layer, the direction forward before the one backward.
    """
    layers = _forward(called)
    width = called.states.shape[2]
    at_output = grad
    if item > 0:
        at_output = grad.new_zeros(*called.x.shape[:2], called.directions * width)
    found: list[list[Trace]] = []
    for number in reversed(range(len(layers))):
        x, runs = layers.pop()
        at_input: Tensor | None = None
        of_layer: list[Trace] = []
        for place, run in enumerate(runs):
            at_states = at_output[..., place * width : (place + 1) * width]
            at_states = _in_order(at_states, place)
            at_cell = None
            last = number * called.directions + place
            if item == 1:
                at_states = at_states.clone()
                at_states[-1] += grad[last]
            elif item == 2:
                at_cell = grad[last]
            slopes = run.back(at_states, at_cell)
            of_layer.append(Trace(_in_order(x, place), run.states[:-1], slopes))
            if number > 0:
                below = _in_order(slopes.at_input @ run.weights.w_ih, place)
                at_input = below if at_input is None else at_input + below
        found.append(of_layer)
        if at_input is not None:
            at_output = at_input
    return [trace for of_layer in reversed(found) for trace in of_layer]


def _forward(called: Called) -> list[_Layer]:
    layers: list[_Layer] = []
    x = called.x
    for start in range(0, len(called.weights), called.directions):
        runs: list[Run] = []
        for place in range(called.directions):
            number = start + place
            cell = None if called.cells is None else called.cells[number]
            run = RUNS[called.kind](
                _in_order(x, place), called.states[number], cell, called.weights[number]
            )
            runs.append(run)
        layers.append(_Layer(x, runs))
        x = layers[-1].output
    return layers


def _in_order(over_time: Tensor, place: int) -> Tensor:
    """Along dimension 0, forward for the direction at place 0, backward for the other."""
    return over_time if place == 0 else over_time.flip(0)
