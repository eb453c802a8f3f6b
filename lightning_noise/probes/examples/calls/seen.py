"""One call of a function of torch, and what is known of its tensors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.facts import Fact
from lightning_noise.probes.examples.calls.fold import Fold


class Seen(NamedTuple):
    """A call that was made.

    Args:
        name: of the operation, whatever alias of it was called.
        function: of torch.
        args: by position.
        kwargs: by keyword.
        facts: of every tensor among the arguments, in order.
        in_place: whether the first argument is changed.
        item: which of several results is asked about.
        results: all of them.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    facts: list[tuple[Tensor, Fact]]
    in_place: bool = False
    item: int = 0
    results: tuple[Tensor, ...] = ()

    def argument(self, position: int, keyword: str, default: Any = None) -> Any:
        """An argument, however it was given."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(keyword, default)

    def fact(self, tensor: Any) -> Fact | None:
        """Of one of the arguments; ``None``: it is no tensor."""
        for given, fact in self.facts:
            if given is tensor:
                return fact
        return None

    @property
    def batch(self) -> list[tuple[Tensor, Fold]]:
        """Tensors that hold the examples."""
        return [(x, fact) for x, fact in self.facts if isinstance(fact, Fold)]

    @property
    def derived(self) -> list[tuple[Tensor, Derived]]:
        """Tensors that follow from parameters alone."""
        return [(x, fact) for x, fact in self.facts if isinstance(fact, Derived)]


def tensors_in(given: Any) -> Iterator[Tensor]:
    """Tensors among arguments, or results, in lists and tuples too."""
    if isinstance(given, Tensor):
        yield given
    elif type(given) in (list, tuple) or isinstance(given, tuple):
        for part in given:
            yield from tensors_in(part)


def listed(given: Iterable[Any]) -> list[Tensor]:
    """What :func:`tensors_in` gives, faster where no tensor is in a list among the arguments."""
    found: list[Tensor] = []
    for part in given:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, (list, tuple)):
            found += tensors_in(part)
    return found


class Hole(NamedTuple):
    """Stands for a tensor among the arguments of a call that is to be repeated."""

    number: int


def with_holes(given: Any, tensors: Sequence[Tensor]) -> Any:
    """Arguments with holes in place of tensors."""
    if isinstance(given, Tensor):
        found = [n for n, tensor in enumerate(tensors) if tensor is given]
        return Hole(found[0]) if found else given
    if type(given) in (list, tuple):
        return type(given)([with_holes(x, tensors) for x in given])
    return given


def filled(given: Any, tensors: Sequence[Tensor]) -> Any:
    """Arguments with tensors in place of holes."""
    if isinstance(given, Hole):
        return tensors[given.number]
    if type(given) in (list, tuple):
        return type(given)([filled(x, tensors) for x in given])
    return given
