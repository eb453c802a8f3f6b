"""Do the examples of a batch mix? Then one half of it has derivatives with respect to the other."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from lightning_noise.probes.double_float import widest
from lightning_noise.probes.examples.listener import Call, Inspect
from lightning_noise.probes.graph import Edge, meets, walk
from lightning_noise.probes.second_derivatives import (
    REENTRANT,
    NoSecondDerivativeError,
    naming_failures,
    refuse_opaque,
)

TOLERANCE = 1e-5  # the ratio is 0 where nothing mixes, and between 0.01 and 2 where examples do
Halves = tuple[Tensor, Tensor]  # largest entries in the half not to be reached, and in the other
CHECKPOINTED = "gradient checkpointing or offloading would do its work once more"
HIDDEN = {  # why derivatives must not be taken through nodes of these names
    REENTRANT: CHECKPOINTED,
    "_DDPSinkBackward": "DDP adds a node to the graph (find_unused_parameters)",
}


class Mixing(NamedTuple):
    """What the check has shown.

    Args:
        layers: those whose output for one example reaches the outputs of others, the last first.
        loss: whether the loss couples the examples.
        checked: names of the layers whose outputs were followed.
        along_positions: whether positions mix along dimension 1, so that it cannot be the batch.
        unchecked: what could not be checked, the layers or the loss, and why.
    """

    layers: tuple[str, ...] = ()
    loss: bool = False
    checked: frozenset[str] = frozenset()
    along_positions: bool = False
    unchecked: tuple[str, ...] = ()


class NotChecked(Exception):  # noqa: N818  # a finding, handled in this file
    """A part of the check cannot be made; the message is the reason."""


class MixingCheck:
    """Follows derivatives through the graph of one micro-batch, and keeps it for the backward pass.

    The loss is computed from the outputs of some layers. Half of the rows of these outputs is
    chosen at random. In all earlier outputs, the gradient of a random combination of the chosen
    rows may reach only the same rows. If the gradient of the loss at the chosen rows depends on
    other rows, the loss couples them. A single row would not be enough: the first row of causal
    attention sees nothing but itself.

    Args:
        loss: a scalar with its graph.
        calls: all calls of watched layers in the forward pass.
        examples: number of examples in the micro-batch, along dimension 0.
        inspecting: a context in which a function is shown the gradients at the outputs of calls.
        seed: of the choice of rows and of the random combinations.
    """

    def __init__(
        self,
        loss: Tensor,
        calls: Sequence[Call],
        examples: int,
        inspecting: Callable[[Inspect], AbstractContextManager[None]],
        seed: int,
    ) -> None:
        self._loss = loss
        self._examples = examples
        self._inspecting = inspecting
        self._recomputed = False
        self._calls: dict[Edge, Call] = {}
        for call in calls:
            self._recomputed |= call.recomputed
            if call.layout.output_size[:1] == (examples,):
                self._calls.setdefault(_edge(call), call)
        self._device = loss.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        order = torch.randperm(examples, generator=self._generator, device=self._device)
        half = examples // 2
        self._chosen = order[:half]
        self._others = order[half:]

    def find(self) -> Mixing:
        """Makes the check, without using the global random state. Waits for the device."""
        if self._examples < 2:
            return Mixing()  # there is nothing to mix
        devices = []
        if self._device.type == "cuda":
            devices.append(self._device)
        with torch.random.fork_rng(devices), torch.enable_grad():
            try:
                roots, between = self._roots()
            except NotChecked as reason:
                return Mixing(unchecked=(f"layers and loss: {reason}",))
            found = self._tried("layers", partial(self._follow_layers, roots), Mixing())
            return self._tried("loss", partial(self._bend_loss, roots, between), found)

    def _tried(self, name: str, part: Callable[[Mixing], Mixing], found: Mixing) -> Mixing:
        try:
            return part(found)
        except Exception as error:  # any operation may be in the graph; training goes on
            unchecked = f"{name}: {_reason(error)}"
            return found._replace(unchecked=(*found.unchecked, unchecked))

    def _roots(self) -> tuple[list[Call], set[Node]]:
        """The outputs that the loss is computed from, and the nodes between them and the loss."""
        if self._loss.numel() != 1 or self._loss.grad_fn is None:
            raise NotChecked("the loss was not a scalar with a graph")
        reached, nodes = walk([(self._loss.grad_fn, 0)], self._calls)
        if not reached:
            raise NotChecked("no layer before the loss has the examples along dimension 0")
        return [self._calls[edge] for edge in reached], nodes

    def _follow_layers(self, roots: list[Call], found: Mixing) -> Mixing:
        if self._recomputed:
            raise NotChecked(CHECKPOINTED)
        before: list[Any] = []
        for root in roots:
            before += root.edge.node.next_functions
        _, nodes = walk(before, ())
        _refuse_hidden(nodes)
        calls = list(self._calls.values())
        ratios = self._reached(roots, calls, dimension=0)
        mixed = tuple(name for name, ratio in ratios.items() if ratio > TOLERANCE)
        found = found._replace(layers=mixed, checked=frozenset(ratios))
        square = list(filter(self._is_square, calls))
        if square and not mixed:
            along = self._reached(roots, square, dimension=1)
            greatest = max(along.values(), default=0)
            found = found._replace(along_positions=greatest > TOLERANCE)
        return found

    def _is_square(self, call: Call) -> bool:
        """Whether there are as many positions along dimension 1 as examples."""
        if not call.slot.rule.positions_first:
            return False
        size = call.layout.output_size
        return len(size) > 2 and size[1] == self._examples

    def _reached(self, roots: list[Call], calls: list[Call], dimension: int) -> dict[str, float]:
        """How far the chosen half reaches the other along ``dimension``, the last layer first."""
        layers: list[str] = []
        halves: list[Halves] = []
        inspected = set(map(id, calls))

        def inspect(call: Call, grad: Tensor) -> None:
            if id(call) in inspected:
                layers.append(call.slot.layer)
                halves.append(self._halves(grad, dimension))

        starts = [self._combination(root, dimension) for root in roots]
        ends = _sources(calls)
        with self._inspecting(inspect):
            torch.autograd.grad(
                _edges(roots),
                _edges(ends),
                starts,
                retain_graph=True,
                allow_unused=True,
            )
        greatest: dict[str, float] = {}
        for layer, ratio in zip(layers, _ratios(halves), strict=True):
            before = greatest.get(layer, 0.0)
            greatest[layer] = max(before, ratio)
        return greatest

    def _combination(self, root: Call, dimension: int) -> Tensor:
        """Random numbers in the chosen half of a root's output and zeros elsewhere, as a gradient.

        Along dimension 1 all rows of a root without positions are random: each holds all positions.
        """
        at = root.layout
        start = torch.empty_strided(at.size, at.stride, dtype=at.dtype, device=self._device).zero_()
        output = root.layout.at_output(start)
        drawn = torch.randn(output.shape, generator=self._generator, device=self._device)
        if dimension == 0 or self._is_square(root):
            drawn.index_fill_(dimension, self._others, 0.0)
        output.copy_(drawn)
        return start

    def _halves(self, grad: Tensor, dimension: int) -> Halves:
        """Largest entries in the other half, and in the chosen one."""
        rows = grad.detach().movedim(dimension, 0).reshape(self._examples, -1)
        norms = torch.linalg.vector_norm(rows, torch.inf, dim=1)
        largest = norms.to(widest(rows.device))
        return largest[self._others].amax(), largest[self._chosen].amax()

    def _bend_loss(self, roots: list[Call], between: set[Node], found: Mixing) -> Mixing:
        _refuse_hidden(between)
        if self._recomputed and (len(roots) > 1 or roots[0].recomputed):
            raise NotChecked(CHECKPOINTED)  # with several, the way to one may lead through another
        couples = self._curvature_ratio(roots) > TOLERANCE
        if not couples:
            _refuse_custom_functions(between)
        return found._replace(loss=couples)

    def _curvature_ratio(self, roots: list[Call]) -> float:
        """How far the slope of the loss at the chosen rows depends on the others."""
        edges = _edges(roots)
        with self._inspecting(_ignore), naming_failures():
            slopes = torch.autograd.grad(self._loss, edges, create_graph=True, allow_unused=True)
            refuse_opaque(slopes)
            parts: list[Tensor] = []
            for root, slope in zip(roots, slopes, strict=True):
                if slope is None or not slope.requires_grad:
                    continue
                weighted = slope * self._combination(root, dimension=0)
                parts.append(weighted.sum())
            if not parts:
                return 0.0  # a linear loss
            total = torch.stack(parts).sum()
            bent = torch.autograd.grad(total, edges, retain_graph=True, allow_unused=True)
        halves: list[Halves] = []
        for root, bend in zip(roots, bent, strict=True):
            if bend is not None:
                at_output = root.layout.at_output(bend)
                halves.append(self._halves(at_output, dimension=0))
        if not halves:
            return 0.0
        others, chosen = map(torch.stack, zip(*halves, strict=True))
        (ratio,) = _ratios([(others.amax(), chosen.amax())])
        return ratio


def _edge(call: Call) -> Edge:
    return call.edge.node, call.edge.output_nr


def _edges(calls: Iterable[Call]) -> list[GradientEdge]:
    return [call.edge for call in calls]


def _sources(calls: Sequence[Call]) -> list[Call]:
    """Calls before which there is no other: a backward pass to them visits all calls."""
    edges = set(map(_edge, calls))
    return [call for call in calls if not meets(call.edge.node, edges)]


def _refuse_hidden(nodes: Iterable[Node]) -> None:
    for node in nodes:
        name = node.name()
        if name in HIDDEN:
            raise NotChecked(HIDDEN[name])


def _refuse_custom_functions(nodes: Iterable[Node]) -> None:
    """What the backward of a custom function does not record counts as constant."""
    for node in nodes:
        if isinstance(node, BackwardCFunction):
            raise NotChecked(f"{node.name()} is a custom function and may hide its derivatives")


def _ratios(norms: Sequence[Halves]) -> list[float]:
    """Largest entries where there may be none, relative to the largest where there may be."""
    if not norms:
        return []
    pairs = torch.stack(list(map(torch.stack, norms)))
    if not bool(pairs.isfinite().all()):
        raise NotChecked("the derivatives were not finite")
    return list(starmap(_ratio, pairs.tolist()))


def _ratio(others: float, chosen: float) -> float:
    if others == 0:
        return 0.0
    if chosen == 0:
        return math.inf
    return others / chosen


def _ignore(call: Call, grad: Tensor) -> None:
    """Ignores a gradient."""


def _reason(error: Exception) -> str:
    if isinstance(error, NotChecked):
        return str(error)
    if isinstance(error, NoSecondDerivativeError):
        return f"the loss has no second derivative ({_first_line(error)})"
    return f"it raised {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    first, _, _ = str(error).partition("\n")
    return first
