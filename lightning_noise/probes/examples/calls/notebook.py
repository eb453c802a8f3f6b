"""What each call does to the facts, and where derived tensors meet the batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls import (
    met_channels,
    met_grouped,
    met_join,
    met_linear,
    met_lookup,
    met_pointwise,
    met_recurrent,
)
from lightning_noise.probes.examples.calls.assigned import Assigned
from lightning_noise.probes.examples.calls.derivation import (
    is_evaluated,
    on_a_copy,
    place_of,
    standing_for,
    with_part,
)
from lightning_noise.probes.examples.calls.derived import Derived, Origin
from lightning_noise.probes.examples.calls.facts import CONSTANT, Fact, Facts, Unknown
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.layouts import RULES
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.met_assigned import assigned
from lightning_noise.probes.examples.calls.met_repeated import repeated
from lightning_noise.probes.examples.calls.names import names
from lightning_noise.probes.examples.calls.operations import Operation
from lightning_noise.probes.examples.calls.pointwise import DRAWN, POINTWISE, RANDOM
from lightning_noise.probes.examples.calls.seen import Seen, listed, tensors_in
from lightning_noise.probes.examples.calls.spread import SPREADING, spread_over
from lightning_noise.probes.examples.contribution import NotPerExample

Build = Callable[[Seen, Arrangement, Mapping[str, Tensor]], Meeting]
MEETINGS: dict[str, Build] = {
    **met_pointwise.MEETINGS,
    **met_join.MEETINGS,
    **met_linear.MEETINGS,
    **met_lookup.MEETINGS,
    **met_channels.MEETINGS,
    **met_grouped.MEETINGS,
    **met_recurrent.MEETINGS,
}
# Constants with one row for every example are taken for data where a parameter meets them first.
ASSIGNED = "a tensor to parts of which examples are assigned"
FED = names(
    """
    linear matmul mm bmm addmm embedding getitem conv1d conv2d conv3d
    """
)


class Met(NamedTuple):
    """A meeting, and the tensors that it needs.

    Args:
        meeting: the rule.
        out: the call's output.
        given: the call's tensors.
    """

    meeting: Meeting
    out: Tensor
    given: list[Tensor]


# Integers of which nothing is known may choose rows in these: no gradient reaches them, and where
# rows of the batch are chosen, the integers themselves show which ones.
CHOOSING = names(
    """
    getitem index_select index_add index_copy scatter scatter_add setitem grouped_mm
    grouped_mm_fallback
    """
)

# what these give depends on the shape, data type and device of their argument alone
MADE = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"})


class Notebook:
    """Facts of one forward pass, kept up to date call by call.

    Args:
        facts: as they are at the start.
        parameters: the watched ones, by name.

    Attributes:
        refused: why parameters were found to have no per-example gradients that can be seen.
    """

    def __init__(self, facts: Facts, parameters: Mapping[str, Tensor]) -> None:
        self.facts = facts
        self.parameters = parameters
        self.refused: dict[str, str] = {}
        self._met_rows: set[str] = set()  # parameters that met rows chosen by the batch

    def note(
        self,
        operation: Operation,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> list[Met]:
        """Takes up a call; the meetings, one for each output at which something meets."""
        name, swapped, in_place = operation
        if not kwargs and name in POINTWISE and self._passed_on(args, out):
            return []
        if swapped:
            args = (args[1], args[0])
            function = _swapped(function)
        facts = [(x, self.facts.of(x)) for x in listed(args)]
        if kwargs:
            facts += [(x, self.facts.of(x)) for x in listed(kwargs.values())]
        if not torch.is_grad_enabled():
            for x, fact in facts:
                if isinstance(fact, (Fold, Unknown, Derived)):
                    self.facts.remember(x, fact)
        in_place = in_place or _in_place_by_argument(args, kwargs, out)
        seen = Seen(name, function, args, kwargs, facts, in_place)
        if name == "setitem":
            return self._set(seen)
        outs = [out] if isinstance(out, Tensor) else listed(out)
        kinds = {type(fact) for _, fact in facts}
        if Unknown in kinds and not _only_chooses(seen):
            self._spoil(seen, outs)
        elif Derived in kinds:
            return self._with_derived(seen, outs, single=isinstance(out, Tensor))
        elif Fold in kinds and name == "broadcast_tensors":
            self._broadcast(seen, outs)
        elif Fold in kinds:
            self._lay_out(seen, outs)
        else:
            self._constant(seen, outs)
        return []

    def _passed_on(self, args: tuple[Any, ...], out: Any) -> bool:
        """Takes up the most frequent kind of call: number by number, the examples in one place.

        It does what :meth:`note` does, in less time; ``False``: it is another kind.
        """
        fold: Fold | None = None
        rank = out.dim() if type(out) is Tensor else -1
        for x in args:
            if isinstance(x, Tensor):
                fact = self.facts.known(x)
                if fact is CONSTANT:
                    continue
                if type(fact) is not Fold or x.dim() != rank or fact.examples < 2:
                    return False
                if fold is not None and fold is not fact and fold != fact:
                    return False
                fold = fact
            elif type(x) in (list, tuple):
                return False
        if fold is None:
            return False
        self.facts.learn(out, fold)
        return True

    def hide(self, args: tuple[Any, ...], reason: str) -> None:
        """Takes up a call that shows nothing: parameters among its arguments are refused."""
        for x in tensors_in(args):
            fact = self.facts.known(x)
            if isinstance(fact, Derived):
                for name in fact.leaves:
                    self.refused.setdefault(name, reason)

    def lose(self, args: tuple[Any, ...], out: Any, reason: str) -> None:
        """Takes up a call that shows nothing, and whose results nothing is known of."""
        self.hide(args, reason)
        self._learn(list(tensors_in(out)), Unknown(reason))

    def _learn(self, outs: list[Tensor], fact: Fact) -> None:
        for one in outs:
            self.facts.learn(one, fact)

    def _refuse(self, seen: Seen, reason: str) -> None:
        for _, derived in seen.derived:
            for name in derived.leaves:
                self.refused.setdefault(name, reason)

    def _spoil(self, seen: Seen, outs: list[Tensor]) -> None:
        unknown = next(fact for _, fact in seen.facts if isinstance(fact, Unknown))
        if seen.derived and any(one.requires_grad for one in outs):
            self._refuse(seen, f"it meets {unknown.reason}")
        self._learn([one for one in outs if _is_new(one, seen)], unknown)

    def _constant(self, seen: Seen, outs: list[Tensor]) -> None:
        for one in outs:
            fact: Fact = CONSTANT
            if seen.name in DRAWN:
                fact = self.facts.random(one)
            elif seen.name in SPREADING and self.facts.examples is not None:
                fold = spread_over(self.facts.examples, seen.facts[0][0].shape, one)
                first = fold is not None and fold.dim == 0 and _second(one) != fold.examples
                fact = fold if fold is not None and first else CONSTANT
            self.facts.learn(one, fact)

    def _lay_out(self, seen: Seen, outs: list[Tensor]) -> None:
        for item, one in enumerate(outs):
            self.facts.learn(one, self._layout(seen._replace(item=item) if item else seen, one))

    def _layout(self, seen: Seen, out: Tensor) -> Fact:
        fact = self._found_layout(seen, out)
        if isinstance(fact, Unknown) and out.dim() > 0 and out.requires_grad:
            self._lose_rows(seen)
        return fact

    def _lose_rows(self, seen: Seen) -> None:
        """Rows that the batch has chosen may have come to other examples: who met them is refused.

        The check on mixing follows layers with the examples along dimension 0 alone.
        """
        if not any(fold.owners is not None for _, fold in seen.batch):
            return
        reason = f"rows that it meets are not led back to their examples by {seen.name}"
        for name in self._met_rows:
            self.refused.setdefault(name, reason)

    def _found_layout(self, seen: Seen, out: Tensor) -> Fact:
        if seen.name in MADE:
            return CONSTANT
        rule = RULES.get(seen.name)
        if rule is None:
            return Unknown(f"the output of {seen.name}, an operation without a rule")
        try:
            fold = rule(seen, out)
        except Exception:  # an unusual form of the call
            fold = None
        if fold is None or not fold.holds(out.shape):
            if out.dim() == 0:
                whole = "a sum over the examples, as in a weight penalty beside the loss"
                return Unknown(f"the output of {seen.name}, {whole}")
            return Unknown(f"the output of {seen.name}, in which examples are not apart")
        return fold

    def _with_derived(self, seen: Seen, outs: list[Tensor], single: bool) -> list[Met]:
        if not seen.batch:
            seen = self._fed(seen)
        if not seen.batch:
            met = self._spread(seen, outs) if seen.name in SPREADING else None
            if met is not None:
                return [met]
            self._derive(seen, outs, single)
            return []
        if seen.name == "broadcast_tensors":
            return self._broadcast(seen, outs)
        self._lay_out(seen, outs)
        if torch.is_grad_enabled() and not any(one.requires_grad for one in outs):
            return []
        try:
            seen = seen._replace(results=tuple(outs))
            return [self._meet(seen._replace(item=n), out) for n, out in enumerate(outs)]
        except NotPerExample as reason:
            self._refuse(seen, str(reason))
        except Exception as error:  # an unusual form of the call; training goes on without it
            self._refuse(seen, f"{seen.name} was called in an unknown way ({error})")
        return []

    def _broadcast(self, seen: Seen, outs: list[Tensor]) -> list[Met]:
        """Several tensors expanded to one shape, each as if by a call of its own."""
        met: list[Met] = []
        for (x, fact), out in zip(seen.facts, outs, strict=True):
            if out is x:
                continue
            args = (x, tuple(out.shape))
            expand = Seen("expand", torch.Tensor.expand, args, {}, [(x, fact)])
            if isinstance(fact, Derived):
                met += self._with_derived(expand, [out], single=True)
            elif isinstance(fact, Fold):
                self._lay_out(expand, [out])
            else:
                self._constant(expand, [out])
        return met

    def _fed(self, seen: Seen) -> Seen:
        if seen.name not in FED or self.facts.examples is None:
            return seen
        fold = Fold(self.facts.examples)
        for place, (x, fact) in enumerate(seen.facts):
            rows = x.dim() > 1 and len(x) == fold.examples and _second(x) != fold.examples
            if rows and not isinstance(fact, (Derived, Unknown)):
                facts = list(seen.facts)
                facts[place] = (x, fold)
                return seen._replace(facts=facts)
        return seen

    def _meet(self, seen: Seen, out: Tensor) -> Met:
        fold = self.facts.of(out)
        if isinstance(fold, Unknown):
            raise NotPerExample(f"it meets {fold.reason}")
        build = MEETINGS.get(seen.name, repeated)
        if not isinstance(fold, Fold):
            raise NotPerExample(f"it meets the batch in {seen.name}, which has no rule")
        meeting = build(seen, Arrangement(fold, out.shape), self.parameters)
        if seen.in_place and any(x is out for x in meeting.inputs):
            raise NotPerExample(f"its input is changed in place by {seen.name}")
        if fold.owners is not None:
            self._met_rows.update(meeting.names.values())
        return Met(meeting, out, [x for x, _ in seen.facts])

    def _spread(self, seen: Seen, outs: list[Tensor]) -> Met | None:
        (out,) = outs
        examples = self.facts.examples
        if examples is None:
            return None
        fold = spread_over(examples, seen.args[0].shape, out)
        if fold is None:
            return None
        self.facts.learn(out, fold)
        meeting = MEETINGS["expand"](seen, Arrangement(fold, out.shape), self.parameters)
        return Met(meeting, out, [seen.args[0]])

    def _derive(self, seen: Seen, outs: list[Tensor], single: bool) -> None:
        args = standing_for(seen, seen.args)
        kwargs = {key: standing_for(seen, x) for key, x in seen.kwargs.items()}
        leaves = frozenset[str]().union(*(derived.leaves for _, derived in seen.derived))
        random = seen.name in RANDOM and not is_evaluated(seen)
        for item, out in enumerate(outs):
            if not out.requires_grad:
                self.facts.learn(out, CONSTANT)
            elif seen.in_place and not torch.is_grad_enabled():
                continue  # other numbers, but the graph stays as it was
            elif random:
                reason = f"{seen.name} of parameters, which cannot be repeated"
                self.facts.learn(out, Unknown(reason))
                self._refuse(seen, f"it meets {reason}")
            elif _is_new(out, seen):
                function = on_a_copy(seen.function) if seen.in_place else seen.function
                origin = Origin(function, args, kwargs, None if single else item)
                place = None if seen.in_place else place_of(seen, out)
                derived = Derived(tuple(out.shape), leaves, origin, place)
                self.facts.learn(out, derived)
                if seen.in_place:
                    self._change_base(out, derived)

    def _change_base(self, view: Tensor, changed: Derived) -> None:
        """Takes up that a part of a derived tensor was changed in place through a view of it."""
        base = view._base
        if base is None:
            return
        before = self.facts.known(base)
        if not isinstance(before, Derived):
            return
        leaves = before.leaves | changed.leaves
        origin = Origin(with_part(base, view), (before, changed), {})
        self.facts.learn(base, Derived(tuple(base.shape), leaves, origin))

    def _set(self, seen: Seen) -> list[Met]:
        target = seen.args[0]
        fact = seen.fact(target)
        if seen.derived and torch.is_grad_enabled():
            return self._set_derived(seen, target)
        if isinstance(fact, (Derived, Unknown)) or not seen.batch:
            return []
        value = seen.fact(seen.args[2])
        if isinstance(value, Fold):
            fold = Assigned(seen).with_examples(value)
            if fold is None:
                self._lose_rows(seen)
            self.facts.learn(target, fold or Unknown(ASSIGNED))
        elif isinstance(value, Unknown):
            self.facts.learn(target, value)
        return []

    def _set_derived(self, seen: Seen, target: Tensor) -> list[Met]:
        fact = seen.fact(target)
        if fact is CONSTANT:  # zeros, made to be filled
            rows = target.dim() > 1 and len(target) == self.facts.examples
            if rows and _second(target) != len(target):
                fact = Fold(len(target))
        try:
            if not isinstance(fact, Fold):
                raise NotPerExample("it is assigned to a part of a tensor")
            meeting = assigned(seen, fact, self.parameters)
        except NotPerExample as reason:
            self._refuse(seen, str(reason))
            self.facts.learn(target, Unknown(str(reason)))
            return []
        self.facts.learn(target, fact)
        return [Met(meeting, target, [x for x, _ in seen.facts])]


def _only_chooses(seen: Seen) -> bool:
    """Whether all that is unknown are integers that choose rows."""
    if seen.name not in CHOOSING:
        return False
    unknown = [x for x, fact in seen.facts if isinstance(fact, Unknown)]
    return not any(x.is_floating_point() or x.is_complex() or x is seen.args[0] for x in unknown)


def _in_place_by_argument(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
    """Whether a function was called with ``inplace=True``, as activations and dropout can be."""
    if not args or out is not args[0]:
        return False
    return bool(kwargs.get("inplace")) or any(x is True for x in args[1:])


def _swapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: function(b, a)


def _second(tensor: Tensor) -> int:
    return tensor.shape[1] if tensor.dim() > 1 else 0


def _is_new(out: Tensor, seen: Seen) -> bool:
    return seen.in_place or all(out is not x for x, _ in seen.facts)
