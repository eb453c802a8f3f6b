"""Do the examples of a batch mix? Then one half of it has derivatives with respect to the other."""

from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from lightning_noise.probes.examples.listener import Call, Inspect
from lightning_noise.probes.second_derivatives import (
    REENTRANT,
    NoSecondDerivativeError,
    naming_failures,
    refuse_opaque,
)

TOLERANCE = 1e-5  # the ratio is 0 where nothing mixes, and between 0.01 and 2 where something does
Edge = tuple[Node, int]
Halves = tuple[Tensor, Tensor]  # largest entries in the half not to be reached, and in the other
CHECKPOINTED = "gradient checkpointing or offloading would do its work once more"
HIDDEN = {
    REENTRANT: CHECKPOINTED,
    "_DDPSinkBackward": "DDP has a node of its own in the graph (find_unused_parameters)",
}


class Mixing(NamedTuple):
    """What the check has shown.

    Args:
        layers: whose output for one example reaches the outputs of others, the last first.
        loss: whether the loss couples the examples.
        checked: names of the layers whose outputs were followed.
        along_positions: whether positions mix along dimension 1, so that this cannot be the batch.
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
    """Follows derivatives through the graph of one micro-batch, which stays for the backward pass.

    Half of the rows of those outputs is chosen at random from which the loss is computed. In all
    earlier outputs, gradients of a random combination of these rows may reach the same rows alone.
    And where the gradient of the loss at these rows depends on other rows, the loss couples them.
    A single row would not do: the first one of causal attention sees nothing but itself.

    Args:
        loss: a number, with its graph.
        calls: of all layers that were watched in the forward pass.
        examples: of the micro-batch, along dimension 0.
        inspecting: shows the gradients at the outputs of calls to a function, inside a context.
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
        self._recomputed = any(call.recomputed for call in calls)
        self._calls: dict[Edge, Call] = {}
        for call in calls:
            if call.layout.output_size[:1] == (examples,):
                self._calls.setdefault((call.edge.node, call.edge.output_nr), call)
        self._device = loss.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        order = torch.randperm(examples, generator=self._generator, device=self._device)
        self._chosen, self._others = order[: examples // 2], order[examples // 2 :]

    def find(self) -> Mixing:
        """Waits for the device; draws nothing from the global random state."""
        devices = [self._device] if self._device.type == "cuda" else []
        if self._examples < 2:
            return Mixing()  # there is nothing to mix
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
        except Exception as error:  # operations of any kind are met here; training goes on without
            return found._replace(unchecked=(*found.unchecked, f"{name}: {_reason(error)}"))

    def _roots(self) -> tuple[list[Call], set[Node]]:
        """The outputs that the loss is computed from, and the nodes between them and the loss."""
        if self._loss.numel() != 1 or self._loss.grad_fn is None:
            raise NotChecked("the loss was not a number with a graph")
        reached, nodes = walk([(self._loss.grad_fn, 0)], self._calls)
        if not reached:
            raise NotChecked("no layer before the loss has the examples along dimension 0")
        return [self._calls[edge] for edge in reached], nodes

    def _follow_layers(self, roots: list[Call], found: Mixing) -> Mixing:
        calls = list(self._calls.values())
        _, nodes = walk([edge for root in roots for edge in root.edge.node.next_functions], ())
        forbidden = CHECKPOINTED if self._recomputed else _hidden(nodes)
        if forbidden is not None:
            raise NotChecked(forbidden)
        ratios = self._reached(roots, calls, dimension=0)
        mixed = tuple(name for name, ratio in ratios.items() if ratio > TOLERANCE)
        found = found._replace(layers=mixed, checked=frozenset(ratios))
        square = [call for call in calls if self._is_square(call)]
        if square and not mixed:
            along = self._reached(roots, square, dimension=1)
            found = found._replace(along_positions=max(along.values(), default=0) > TOLERANCE)
        return found

    def _is_square(self, call: Call) -> bool:
        """Whether there are as many positions along dimension 1 as examples."""
        size = call.layout.output_size
        return call.slot.rule.positions_first and len(size) > 2 and size[1] == self._examples

    def _reached(self, roots: list[Call], calls: list[Call], dimension: int) -> dict[str, float]:
        """How far the chosen half reaches the other along ``dimension``, the last layer first."""
        seen: list[tuple[str, Halves]] = []
        wanted = set(map(id, calls))

        def inspect(call: Call, grad: Tensor) -> None:
            if id(call) in wanted:
                seen.append((call.slot.layer, self._halves(grad, dimension)))

        starts = [self._combination(root, dimension) for root in roots]
        ends = _sources(calls)
        with self._inspecting(inspect):
            torch.autograd.grad(
                [root.edge for root in roots],
                [call.edge for call in ends],
                starts,
                retain_graph=True,
                allow_unused=True,
            )
        ratios = _ratios([halves for _, halves in seen])
        greatest: dict[str, float] = {}
        for (layer, _), ratio in zip(seen, ratios, strict=True):
            greatest[layer] = max(greatest.get(layer, 0.0), ratio)
        return greatest

    def _combination(self, root: Call, dimension: int) -> Tensor:
        """Random numbers in the chosen half of a root's output and zeros elsewhere, as a gradient.

        Along dimension 1 a root without positions takes part whole: each row holds all of them.
        """
        size, stride, dtype, _ = root.layout
        start = torch.empty_strided(size, stride, dtype=dtype, device=self._device).zero_()
        output = root.layout.at_output(start)
        drawn = torch.randn(output.shape, generator=self._generator, device=self._device)
        if dimension == 0 or self._is_square(root):
            drawn.index_fill_(dimension, self._others, 0.0)
        output.copy_(drawn)
        return start

    def _halves(self, grad: Tensor, dimension: int) -> Halves:
        """Largest entries in the other half, and in the chosen one."""
        rows = grad.detach().movedim(dimension, 0).reshape(self._examples, -1)
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=1).double()
        return largest[self._others].amax(), largest[self._chosen].amax()

    def _bend_loss(self, roots: list[Call], between: set[Node], found: Mixing) -> Mixing:
        hidden = _hidden(between)
        if hidden is not None:
            raise NotChecked(hidden)
        if self._recomputed and (len(roots) > 1 or roots[0].recomputed):
            raise NotChecked(CHECKPOINTED)  # with several, the way to one may lead through another
        found = found._replace(loss=self._curvature_ratio(roots) > TOLERANCE)
        own = [node.name() for node in between if isinstance(node, BackwardCFunction)]
        if own and not found.loss:  # what their backward does not record counts as constant
            raise NotChecked(f"{own[0]} is no function of torch and may hide its derivatives")
        return found

    def _curvature_ratio(self, roots: list[Call]) -> float:
        """How far the slope of the loss at the chosen rows depends on the others."""
        edges = [root.edge for root in roots]
        with self._inspecting(_ignore), naming_failures():
            slopes = torch.autograd.grad(self._loss, edges, create_graph=True, allow_unused=True)
            refuse_opaque([slope for slope in slopes if slope is not None])
            parts = [
                (slope * self._combination(root, dimension=0)).sum()
                for root, slope in zip(roots, slopes, strict=True)
                if slope is not None and slope.requires_grad
            ]
            if not parts:
                return 0.0  # a linear loss
            slope = torch.stack(parts).sum()
            bent = torch.autograd.grad(slope, edges, retain_graph=True, allow_unused=True)
        halves = [
            self._halves(root.layout.at_output(bend), dimension=0)
            for root, bend in zip(roots, bent, strict=True)
            if bend is not None
        ]
        if not halves:
            return 0.0
        others, chosen = (torch.stack(side).amax() for side in zip(*halves, strict=True))
        return _ratios([(others, chosen)])[0]


def walk(starts: Iterable[Any], stops: Container[Edge]) -> tuple[list[Edge], set[Node]]:
    """The first edges of ``stops`` on each way from ``starts``, and the nodes passed on the way."""
    waiting = [edge for edge in starts if edge[0] is not None]
    seen: set[Node] = set()
    met: dict[Edge, None] = {}
    while waiting:
        edge = waiting.pop()
        if edge in stops:
            met[edge] = None
        elif edge[0] not in seen:
            seen.add(edge[0])
            waiting += [further for further in edge[0].next_functions if further[0] is not None]
    return list(met), seen


def _sources(calls: Sequence[Call]) -> list[Call]:
    """Calls before which there is no other: a backward pass to them visits all."""
    edges = {(call.edge.node, call.edge.output_nr) for call in calls}
    return [call for call in calls if not _meets(call.edge.node, edges)]


def _meets(start: Node, edges: Container[Edge]) -> bool:
    """Whether one of ``edges`` lies before ``start``."""
    waiting = [start]
    seen = {start}
    while waiting:
        for node, number in waiting.pop().next_functions:
            if (node, number) in edges:
                return True
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return False


def _hidden(nodes: Iterable[Node]) -> str | None:
    """Why derivatives must not be taken through these nodes."""
    return next((HIDDEN[node.name()] for node in nodes if node.name() in HIDDEN), None)


def _ratios(norms: Sequence[Halves]) -> list[float]:
    """Of what nothing may reach to what it may."""
    if not norms:
        return []
    pairs = torch.stack([torch.stack(pair) for pair in norms])
    if not bool(pairs.isfinite().all()):
        raise NotChecked("the derivatives were not finite")
    return [_ratio(*pair) for pair in pairs.tolist()]


def _ratio(others: float, chosen: float) -> float:
    if others == 0:
        return 0.0
    return others / chosen if chosen else float("inf")


def _ignore(call: Call, grad: Tensor) -> None:
    """Shows a gradient to nobody."""


def _reason(error: Exception) -> str:
    if isinstance(error, NotChecked):
        return str(error)
    if isinstance(error, NoSecondDerivativeError):
        return f"the loss has no second derivative ({str(error).splitlines()[0]})"
    return f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
