"""Cells of recurrent layers: one layer in one direction, forward and back through time.

Everything that acts on each number by itself is taken for all time steps at once. Only what one
step needs of another is left to the loops, and nothing is recorded for autograd.
"""

from abc import ABC, abstractmethod
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


class Slopes(NamedTuple):
    """Gradients at the gates, each of shape (T, B, G).

    Args:
        at_input: at what the inputs give to the gates.
        at_state: at what the state gives to the gates.
    """

    at_input: Tensor
    at_state: Tensor


class Run(ABC):
    """One layer in one direction, computed again.

    Args:
        x: inputs in the order in which they are taken, shape (T, B, inputs).
        state: at the start, shape (B, width).
        cell: likewise, of an LSTM.
        weights: of the layer.

    Attributes:
        states: at the start and after each step, shape (T + 1, B, width).
    """

    def __init__(self, x: Tensor, state: Tensor, cell: Tensor | None, weights: Weights) -> None:
        self.weights = weights
        self.states = state.new_empty(len(x) + 1, *state.shape)
        self.states[0] = state
        self._forward(x, cell)

    @abstractmethod
    def _forward(self, x: Tensor, cell: Tensor | None) -> None:
        """Computes the states."""

    @abstractmethod
    def back(self, at_states: Tensor, at_cell: Tensor | None) -> Slopes:
        """Gradients at the gates. May be called once.

        Args:
            at_states: gradients at the states after each step, shape (T, B, width).
            at_cell: at the last cell; ``None``: zero.
        """


class Lstm(Run):
    """With gates i, f, g, o."""

    def _forward(self, x: Tensor, cell: Tensor | None) -> None:
        w_ih, w_hh, b_ih, b_hh = self.weights
        width = w_hh.shape[1]
        self.gates = functional.linear(x, w_ih, _sum(b_ih, b_hh))
        self.cells = torch.zeros_like(self.states)
        if cell is not None:
            self.cells[0] = cell
        across = w_hh.t()
        states, cells = self.states.unbind(0), self.cells.unbind(0)
        for time, gate in enumerate(self.gates.unbind(0)):
            gate.addmm_(states[time], across)
            gate[:, : 2 * width].sigmoid_()
            gate[:, 2 * width : 3 * width].tanh_()
            gate[:, 3 * width :].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            torch.mul(f, cells[time], out=cells[time + 1]).addcmul_(i, g)
            torch.tanh(cells[time + 1], out=states[time + 1]).mul_(o)

    def back(self, at_states: Tensor, at_cell: Tensor | None) -> Slopes:
        """The slopes of all gates are those at the cell or the state, times factors known before.

        At the state for o, at the cell for the others.
        """
        of_cell, kept = self._factors()
        w_hh = self.weights.w_hh
        width = w_hh.shape[1]
        slopes, of_cells, kepts = self.gates.unbind(0), of_cell.unbind(0), kept.unbind(0)
        state, cell = torch.zeros_like(at_states[0]), at_cell
        if cell is None:
            cell = torch.zeros_like(state)
        for time in reversed(range(len(at_states))):
            state = state + at_states[time]
            cell = torch.addcmul(cell, state, of_cells[time])
            slope = slopes[time]
            slope[:, : 3 * width].unflatten(1, (3, width)).mul_(cell.unsqueeze(1))
            slope[:, 3 * width :].mul_(state)
            state = slope @ w_hh
            cell = cell * kepts[time]
        return Slopes(self.gates, self.gates)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Turns gates into factors of their slopes.

        Returns:
            The factor from state to cell, and that from a cell to the one before.
        """
        i, f, g, o = self.gates.chunk(4, 2)
        kept = f.clone()
        of_state = self.cells[1:].tanh()
        of_cell = o * (1 - of_state.square())
        slope_i = g * i * (1 - i)
        g.copy_(i * (1 - g.square()))
        i.copy_(slope_i)
        f.copy_(self.cells[:-1] * f * (1 - f))
        o.copy_(of_state * o * (1 - o))
        return of_cell, kept


class LstmGivenCell(Lstm):
    """A single step whose new state is computed from a new cell of its own gradient."""

    def _factors(self) -> tuple[Tensor, Tensor]:
        of_cell, kept = super()._factors()
        return torch.zeros_like(of_cell), kept


class Gru(Run):
    """With gates r, z, n: n is apart for inputs and state."""

    def _forward(self, x: Tensor, cell: Tensor | None) -> None:
        w_ih, w_hh, b_ih, b_hh = self.weights
        width = w_hh.shape[1]
        self.gates = functional.linear(x, w_ih, b_ih)
        self.new_of_state = self.gates.new_empty(*self.gates.shape[:2], width)
        states = self.states.unbind(0)
        for time, gate in enumerate(self.gates.unbind(0)):
            of_state = functional.linear(states[time], w_hh, b_hh)
            both, new = gate[:, : 2 * width], gate[:, 2 * width :]
            both.add_(of_state[:, : 2 * width]).sigmoid_()
            reset, update = both.chunk(2, 1)
            self.new_of_state[time] = of_state[:, 2 * width :]
            new.addcmul_(reset, of_state[:, 2 * width :]).tanh_()
            torch.lerp(new, states[time], update, out=states[time + 1])

    def back(self, at_states: Tensor, at_cell: Tensor | None) -> Slopes:
        """The slopes of all gates are those at the state, times factors known before."""
        w_hh = self.weights.w_hh
        width = w_hh.shape[1]
        reset, update, new = self.gates.chunk(3, 2)
        kept = update.clone()
        of_new = (1 - update) * (1 - new.square())
        update.mul_((self.states[:-1] - new) * (1 - update))
        new.copy_(of_new * reset)
        reset.mul_((1 - reset) * self.new_of_state * of_new)
        at_state = self.gates
        all_states = torch.empty_like(at_states)
        state = torch.zeros_like(at_states[0])
        for time in reversed(range(len(at_states))):
            torch.add(state, at_states[time], out=all_states[time])
            state = all_states[time]
            at_state[time].unflatten(1, (3, width)).mul_(state.unsqueeze(1))
            state = torch.addmm(state * kept[time], at_state[time], w_hh)
        at_input = torch.cat([at_state[..., : 2 * width], of_new.mul_(all_states)], 2)
        return Slopes(at_input, at_state)


class Tanh(Run):
    """Without gates."""

    def _forward(self, x: Tensor, cell: Tensor | None) -> None:
        w_ih, w_hh, b_ih, b_hh = self.weights
        across = w_hh.t()
        sums = functional.linear(x, w_ih, _sum(b_ih, b_hh))
        for time, total in enumerate(sums.unbind(0)):
            total.addmm_(self.states[time], across)
            self.states[time + 1] = self._bend(total)

    def _bend(self, total: Tensor) -> Tensor:
        return total.tanh_()

    def _slope(self) -> Tensor:
        return 1 - self.states[1:].square()

    def back(self, at_states: Tensor, at_cell: Tensor | None) -> Slopes:
        """What comes back through a step is multiplied by the slope there."""
        slopes = self._slope()
        state = torch.zeros_like(at_states[0])
        for time, slope in reversed(list(enumerate(slopes.unbind(0)))):
            slope.mul_(state + at_states[time])
            state = slope @ self.weights.w_hh
        return Slopes(slopes, slopes)


class Relu(Tanh):
    """Without gates, and without a bound."""

    def _bend(self, total: Tensor) -> Tensor:
        return total.relu_()

    def _slope(self) -> Tensor:
        return (self.states[1:] > 0).to(self.states.dtype)


RUNS: dict[str, type[Run]] = {
    "lstm": Lstm,
    "lstm, given its cell": LstmGivenCell,
    "gru": Gru,
    "rnn_tanh": Tanh,
    "rnn_relu": Relu,
}


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b
