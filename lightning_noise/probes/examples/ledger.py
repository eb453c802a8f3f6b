"""Adds up the uses of every parameter in one backward pass, then squares.

A parameter has one gradient, the sum of its uses.
"""

from collections.abc import Callable, Container, Mapping, Sequence

import torch
from torch import Tensor

from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.examples.contribution import (
    Contribution,
    Dense,
    Form,
    NotPerExample,
    slices,
)
from lightning_noise.probes.examples.directions import Signs, join_signs
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.keyed_norms import KeyedNorms

SMALL = 2**16  # elements


class UsedAgain(Exception):  # noqa: N818  # a finding, handled by the caller
    """A parameter was used again after it had been squared: no forward pass showed the call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Ledger:
    """Squared norms of the examples' contributions to one backward pass.

    Args:
        norms: where they are summed by key.
        forms: how each parameter is sketched.
        signs: returns the random signs of a parameter, the same for each of its uses.
        exact: whether to take exact norms, without sketches.
        sketches: m, the number of sketches of a gradient.
    """

    def __init__(
        self,
        norms: KeyedNorms,
        forms: Mapping[str, Form | None],
        signs: Callable[[str], Signs],
        *,
        exact: bool,
        sketches: int,
    ) -> None:
        self._norms = norms
        self._forms = forms
        self._signs = signs
        self._exact = exact
        self._sketches = sketches
        self._squared: set[str] = set()
        # by cell; squared together, because many small kernels cost more than one
        self._small: dict[int, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._uses: dict[str, list[Contribution]] = {}

    def begin(self) -> None:
        """A new backward pass."""
        self._squared.clear()
        self._small = {}
        self._sums = {}
        self._uses = {}

    def add(self, name: str, part: Contribution) -> None:
        """Adds one of several uses of a parameter.

        Raises:
            UsedAgain: the parameter was squared before.
        """
        if name in self._squared:
            raise UsedAgain(name)
        if self._exact:
            self._uses.setdefault(name, []).append(part)
        else:
            self._add_up(name, self._sketch([name], part))

    def add_alone(self, names: Sequence[str], part: Contribution) -> None:
        """Adds the only uses of parameters, which can be squared at once.

        Args:
            names: of parameters of one shape, cell and form.
            part: of all of them, the examples of one parameter after those of the other.

        Raises:
            UsedAgain: one of them was squared before.
        """
        self._mark_squared(names)
        self._square(names, part)

    def _mark_squared(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self._squared:
                raise UsedAgain(name)
            self._squared.add(name)

    def _add_up(self, name: str, sketch: Tensor) -> None:
        before = self._sums.get(name)
        if before is not None and before.shape != sketch.shape:
            raise NotPerExample("its uses differ in kind, so that their gradients cannot be added")
        if before is not None:
            sketch = before + sketch
        self._sums[name] = sketch

    def add_pair(
        self,
        weights: Sequence[str],
        biases: Sequence[str],
        part: Outer,
    ) -> bool:
        """Adds weights and their biases as one matrix each, where each is used only once.

        It returns ``False`` if they must be added separately. Arguments are as for
        :meth:`add_alone`.

        Raises:
            UsedAgain: one of them was squared before.
        """
        cell = self._norms.cell_of[weights[0]]
        form = self._forms[weights[0]]
        if self._exact or form is None or self._norms.cell_of[biases[0]] != cell:
            return False
        if part.positions > 1 and part.exact_is_cheap(self._sketches):
            return False
        self._mark_squared([*weights, *biases])
        if part.positions == 1:
            self._norms.add_norms(cell, part.norms_with_bias())
        else:
            sketch = part.sketch_with_bias(form, self._signs_of(weights))
            self._add_squares(cell, sketch)
        return True

    def _square(self, names: Sequence[str], part: Contribution) -> None:
        cell = self._norms.cell_of[names[0]]
        if isinstance(part, Dense):
            self._add_squares(cell, part.gradients)
        elif self._exact or part.exact_is_cheap(self._sketches):
            self._norms.add_norms(cell, part.norms())
        else:
            self._add_squares(cell, self._sketch(names, part))

    def _add_squares(self, cell: int, values: Tensor) -> None:
        if values.numel() > SMALL:
            self._norms.add(cell, values)
        else:
            self._small.setdefault(cell, []).append(values.flatten())

    def _sketch(self, names: Sequence[str], part: Contribution) -> Tensor:
        form = self._forms[names[0]]
        if form is None:
            return part.sketch(None, None)
        return part.sketch(form, self._signs_of(names))

    def _signs_of(self, names: Sequence[str]) -> Signs:
        return join_signs([self._signs(name) for name in names])

    def end(self, leave_out: Container[str]) -> Wide:
        """Returns Σ_i |c_i|² by key, fp64 of shape (keys,), and forgets the backward pass."""
        for name, total in self._sums.items():
            if name not in leave_out:
                self._add_squares(self._norms.cell_of[name], total)
        for name, parts in self._uses.items():
            if name not in leave_out:
                self._square_sum(name, parts)
        for cell, values in self._small.items():
            self._norms.add(cell, torch.cat(values))
        self.begin()
        return self._norms.total()

    def _square_sum(self, name: str, parts: list[Contribution]) -> None:
        cell = self._norms.cell_of[name]
        first, *others = parts
        if not others:
            self._norms.add_norms(cell, first.norms())
            return
        for rows in slices(first.examples, first.numbers):
            gradients = first.build(rows)
            for part in others:
                gradients = gradients + part.build(rows)
            self._norms.add(cell, gradients)
