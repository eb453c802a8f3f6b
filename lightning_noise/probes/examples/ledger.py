"""Adds up the uses of every parameter in one backward pass, then squares.

A parameter has one gradient, the sum of its uses.
"""

from collections.abc import Callable, Container, Mapping

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
from lightning_noise.probes.examples.directions import Signs
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

    def add(
        self,
        name: str,
        part: Contribution,
        *,
        alone: bool,
    ) -> None:
        """Adds one use of a parameter.

        ``alone`` says that no other use is expected, so that it can be squared at once.

        Raises:
            UsedAgain: the parameter was squared before.
        """
        if name in self._squared:
            raise UsedAgain(name)
        if alone:
            self._squared.add(name)
            self._square(name, part)
        elif self._exact:
            self._uses.setdefault(name, []).append(part)
        else:
            self._add_up(name, self._sketch(name, part))

    def _add_up(self, name: str, sketch: Tensor) -> None:
        before = self._sums.get(name)
        if before is not None and before.shape != sketch.shape:
            raise NotPerExample("its uses differ in kind, so that their gradients cannot be added")
        if before is not None:
            sketch = before + sketch
        self._sums[name] = sketch

    def add_pair(
        self,
        weight: str,
        bias: str,
        part: Outer,
    ) -> bool:
        """Adds a weight and its bias as one matrix, where each is used only once.

        It returns ``False`` if they must be added separately.

        Raises:
            UsedAgain: one of them was squared before.
        """
        cell = self._norms.cell_of[weight]
        form = self._forms[weight]
        if self._exact or form is None or self._norms.cell_of[bias] != cell:
            return False
        if part.positions > 1 and part.exact_is_cheap(self._sketches):
            return False
        for name in (weight, bias):
            if name in self._squared:
                raise UsedAgain(name)
        self._squared |= {weight, bias}
        if part.positions == 1:
            self._norms.add_norms(cell, part.norms_with_bias())
        else:
            sketch = part.sketch_with_bias(form, self._signs(weight))
            self._add_squares(weight, sketch)
        return True

    def _square(self, name: str, part: Contribution) -> None:
        if isinstance(part, Dense):
            self._add_squares(name, part.gradients)
        elif self._exact or part.exact_is_cheap(self._sketches):
            cell = self._norms.cell_of[name]
            self._norms.add_norms(cell, part.norms())
        else:
            self._add_squares(name, self._sketch(name, part))

    def _add_squares(self, name: str, values: Tensor) -> None:
        cell = self._norms.cell_of[name]
        if values.numel() > SMALL:
            self._norms.add(cell, values)
        else:
            self._small.setdefault(cell, []).append(values.flatten())

    def _sketch(self, name: str, part: Contribution) -> Tensor:
        form = self._forms[name]
        if form is None:
            return part.sketch(None, None)
        return part.sketch(form, self._signs(name))

    def end(self, leave_out: Container[str]) -> Wide:
        """Returns Σ_i |c_i|² by key, fp64 of shape (keys,), and forgets the backward pass."""
        for name, total in self._sums.items():
            if name not in leave_out:
                self._add_squares(name, total)
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
