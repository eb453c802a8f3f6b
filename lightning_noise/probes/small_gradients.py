"""The gradients of small parameters in a backward pass, found without a kernel for each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from operator import is_, sub

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_noise.probes.small import SmallParameters

Joined = dict[int, Tensor]  # gradients along one dimension, by cell
ABSENT = -1  # the version of a gradient that is not there


class SmallGradients(ABC):
    """Gradients of small parameters, pass by pass."""

    @abstractmethod
    def attach(self, stack: ExitStack) -> None:
        """Sets hooks, which the stack removes."""

    @abstractmethod
    def begin(self) -> None:
        """A backward pass begins."""

    @abstractmethod
    def end(self) -> Joined | None:
        """The backward pass is over: its own gradients. ``None`` where they cannot be told."""

    @abstractmethod
    def accumulated(self) -> Joined:
        """``.grad`` at the end of a step."""

    @abstractmethod
    def forget(self) -> None:
        """Holds nothing any more, and sees nothing until :meth:`begin`."""


def small_gradients(
    small: SmallParameters,
    parameters: Mapping[str, Parameter],
    *,
    replicas: int,
    hold: bool,
) -> SmallGradients:
    """What can see the small ones among ``parameters``.

    ``.grad`` shows what a pass has added to it, unless a strategy reduces it in the pass, a hook of
    the user changes it, or its precision is too low for the difference.

    Args:
        small: the small parameters.
        parameters: all that are watched.
        replicas: whose gradients are averaged.
        hold: whether a pass has done something else to ``.grad`` than adding to it.
    """
    hooked = any(parameter._post_accumulate_grad_hooks for parameter in parameters.values())
    if replicas > 1 or hold or hooked or not small.are_precise():
        return Held(small)
    return Differences(small)


class Differences(SmallGradients):
    """What a pass has added to ``.grad``.

    No hook is needed. The difference is off by the rounding of the accumulation, 6e-8 of ``.grad``
    in single precision. Between the passes of a step, copies of the gradients are kept.
    """

    def __init__(self, small: SmallParameters) -> None:
        self._small = small
        self.forget()

    def attach(self, stack: ExitStack) -> None:
        """Needs no hook."""

    def begin(self) -> None:
        """Notes what ``.grad`` holds already."""
        self._look()

    def end(self) -> Joined | None:
        """The differences to what :meth:`begin` found.

        ``None`` where a gradient was replaced or zeroed in the pass, or added to more than once.
        """
        before = self._joined
        gradients = self._gradients
        versions = self._versions
        self._look()
        if before and not self._only_added_to(gradients, versions):
            return None
        found: Joined = {}
        with torch.no_grad():
            for cell, now in self._joined.items():
                found[cell] = now - before[cell] if cell in before else now
        return found

    def accumulated(self) -> Joined:
        """What was found at the end of the last pass, unless it has been changed since."""
        self._look()
        return self._joined

    def forget(self) -> None:
        """Drops the copies."""
        self._gradients: Sequence[Tensor | None] = ()
        self._versions: Sequence[int] = ()
        self._joined: Joined = {}

    def _look(self) -> None:
        gradients = self._small.gradients()
        versions = [ABSENT if one is None else one._version for one in gradients]
        same = len(gradients) == len(self._gradients) and all(map(is_, gradients, self._gradients))
        if same and versions == self._versions:
            return
        self._gradients = gradients
        self._versions = versions
        self._joined = dict(self._small.joined(gradients))

    def _only_added_to(self, gradients: Sequence[Tensor | None], versions: Sequence[int]) -> bool:
        """Whether every gradient that was there is the same tensor, and was changed once at most,
        as where the pass adds to it.
        """
        changes = map(sub, self._versions, versions)
        for before, now, change in zip(gradients, self._gradients, changes, strict=True):
            if before is not None and (now is not before or change > 1):
                return False
        return True


class Held(SmallGradients):
    """What hooks get in a pass, held until it is over.

    A gradient that arrives in several parts (reentrant checkpointing of a shared parameter) is
    their sum.
    """

    def __init__(self, small: SmallParameters) -> None:
        self._small = small
        self._held: list[Tensor | None] = [None] * len(small.names)
        self._views: set[int] = set()  # places of gradients that are parts of larger tensors
        self._views_known = False
        self._open = False

    def attach(self, stack: ExitStack) -> None:
        """Hooks every parameter."""
        for place, parameter in enumerate(self._small.parameters):
            stack.callback(parameter.register_hook(self._hook(place)).remove)

    def _hook(self, place: int) -> Callable[[Tensor], None]:
        held = self._held
        views = self._views

        # this runs for every small parameter in every pass, so it does no more than it must
        def hold(grad: Tensor) -> None:
            if not self._open:
                return
            if place in views:
                grad = grad.clone()
            before = held[place]
            held[place] = grad if before is None else before + grad

        return hold

    def begin(self) -> None:
        """Holds from now on."""
        self._open = True

    def end(self) -> Joined:
        """Joins what is held, and holds it no more."""
        self._find_views()
        joined = dict(self._small.joined(self._held))
        self.forget()
        return joined

    def accumulated(self) -> Joined:
        """``.grad`` as it is."""
        return dict(self._small.joined(self._small.gradients()))

    def forget(self) -> None:
        """Holds nothing."""
        self._open = False
        self._held[:] = [None] * len(self._held)

    def _find_views(self) -> None:
        """Notes whose gradient is a view: to hold it is to hold all of the larger tensor."""
        if self._views_known:
            return
        self._views_known = True
        for place, gradient in enumerate(self._held):
            if gradient is None:
                continue
            base = gradient._base  # no public way
            if base is not None and base.numel() > gradient.numel():
                self._views.add(place)
