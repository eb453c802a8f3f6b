"""Walks through the graph of autograd, from outputs towards inputs."""

from collections.abc import Container, Iterable
from typing import Any

from torch.autograd.graph import Node

Edge = tuple[Node, int]


def walk(starts: Iterable[Any], stops: Container[Edge]) -> tuple[list[Edge], set[Node]]:
    """The first edges of ``stops`` on each path from ``starts``, and the nodes on these paths.

    A start is an :data:`Edge`, or the same with ``None`` in place of a node.
    """
    waiting = list(starts)
    seen: set[Node] = set()
    met: dict[Edge, None] = {}
    while waiting:
        edge = waiting.pop()
        node, _ = edge
        if edge in stops:
            met[edge] = None
        elif node is not None and node not in seen:
            seen.add(node)
            waiting += node.next_functions
    return list(met), seen


def meets(start: Node, edges: Container[Edge]) -> bool:
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
