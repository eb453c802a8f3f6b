"""Derived matrices that are multiplied with the batch."""

from collections.abc import Mapping
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.blocks import Blocks
from lightning_noise.probes.examples.calls.derived import Derived
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.meeting import Arrangement, Meeting
from lightning_noise.probes.examples.calls.met_pointwise import summed_to
from lightning_noise.probes.examples.calls.met_repeated import repeated
from lightning_noise.probes.examples.calls.operands import batch_of, derived_among
from lightning_noise.probes.examples.calls.own import own_fold
from lightning_noise.probes.examples.calls.placed import Sides
from lightning_noise.probes.examples.calls.products import Letters, einsum_tensors, letters_of
from lightning_noise.probes.examples.calls.seen import Seen
from lightning_noise.probes.examples.contribution import Contribution, Dense, NotPerExample
from lightning_noise.probes.examples.outer import Outer, over_positions
from lightning_noise.probes.examples.precision import working

Parameters = Mapping[str, Tensor]


class LinearMeeting(Meeting):
    """x weightᵀ + bias."""

    op = "linear"
    without_inputs = frozenset({"bias"})
    positions_first = True

    def __init__(self, *args: Any, of_input: Fold) -> None:
        super().__init__(*args)
        self.of_input = of_input

    def sides(self, own: str) -> Sides | None:
        """The weight's; one row where it is a vector."""
        shape = self.met[own].tensor.shape
        return (shape[:-1].numel(), shape[-1]) if own == "weight" else None

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """Outer products at every position; the bias is their factor alone."""
        found: dict[str, Contribution] = {}
        if "bias" in self.met:
            found["bias"] = Dense(lambda: over_positions(working(grad), 1))
        if "weight" in self.met:
            x = self.of_input.first(inputs[0])
            # beside a derived weight the bias is entered apart
            plain = self.met["weight"].derived.name is not None
            found["weight"] = Outer(grad, x, "bias" if plain else None)
        return found


def linear(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``functional.linear(input, weight, bias)``."""
    x = seen.argument(0, "input")
    given = {"weight": seen.argument(1, "weight"), "bias": seen.argument(2, "bias")}
    operands = derived_among(seen, given)
    inputs = (x,) if "weight" in operands else ()
    return LinearMeeting(operands, inputs, at, parameters, of_input=batch_of(seen, x))


class MatmulMeeting(Meeting):
    """a @ b, where one of both is a derived matrix or vector: the other is the input.

    Args:
        left: whether the matrix is the left factor.
        of_input: where the examples lie in the other factor.
    """

    op = "matmul"
    without_inputs = frozenset({"added"})

    def __init__(self, *args: Any, left: bool, of_input: Fold | None) -> None:
        super().__init__(*args)
        self.left = left
        self.of_input = of_input

    def sides(self, own: str) -> Sides | None:
        """The matrix's; a vector is a row on the left and a column on the right."""
        if own == "added":
            return None
        shape = self.met[own].tensor.shape
        if len(shape) > 1:
            return (shape[:-1].numel(), shape[-1])
        return (1, shape[0]) if self.left else (shape[0], 1)

    def arranged(self, grad: Tensor) -> Tensor:
        """Other numbers of the examples' dimension stay apart, in front of the rest of it."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """Outer products of rows, or of columns."""
        found: dict[str, Contribution] = {}
        if "added" in self.met:
            size = self.met["added"].tensor.shape
            found["added"] = Dense(lambda: summed_to(working(grad), size))
        if "matrix" in self.met and self.of_input is not None:
            vector = self.met["matrix"].tensor.dim() == 1
            x = self.of_input.rows(inputs[0])
            g = grad.unsqueeze(-1) if vector else grad
            if self.left:
                found["matrix"] = self._part(g if vector else g.mT, x.mT)
            else:
                found["matrix"] = self._part(x, g)
        return found

    def _part(self, rows: Tensor, cols: Tensor) -> Contribution:
        lead = self.met["matrix"].tensor.shape[:-2]
        if lead.numel() == 1:
            return Outer(rows, cols)
        wide = rows if rows.dim() > cols.dim() else cols
        return Blocks(_by_block(rows, wide, lead), _by_block(cols, wide, lead))


def matmul(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``a @ b``, ``torch.mm``, ``torch.bmm``, ``torch.mv``."""
    a = seen.argument(0, "input")
    b = seen.argument(1, "other", seen.kwargs.get("mat2", seen.kwargs.get("vec")))
    return _product(seen, a, b, None, at, parameters)


def addmm(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``c + a @ b``."""
    if seen.argument(3, "beta", 1) != 1 or seen.argument(4, "alpha", 1) != 1:
        raise NotPerExample(f"{seen.name} was called with alpha or beta")
    c = seen.argument(0, "input")
    a = seen.argument(1, "mat1", seen.kwargs.get("batch1", seen.kwargs.get("mat")))
    b = seen.argument(2, "mat2", seen.kwargs.get("batch2", seen.kwargs.get("vec")))
    return _product(seen, a, b, c, at, parameters)


def _product(
    seen: Seen,
    a: Tensor,
    b: Tensor,
    c: Tensor | None,
    at: Arrangement,
    parameters: Parameters,
) -> Meeting:
    left = isinstance(seen.fact(b), Fold)
    matrix, x = (a, b) if left else (b, a)
    own = _own_of(matrix, at)
    if own is not None and len(seen.derived) == 1:
        return repeated(seen, at, parameters, {0: own})
    if any(given.is_complex() for given, _ in seen.facts):
        return repeated(seen, at, parameters)
    operands = derived_among(seen, {"matrix": matrix, "added": c})
    if "matrix" not in operands:
        return MatmulMeeting(operands, (), at, parameters, left=left, of_input=None)
    of_input = batch_of(seen, x)
    return MatmulMeeting(operands, (x,), at, parameters, left=left, of_input=of_input)


def _own_of(matrix: Tensor, at: Arrangement) -> Fold | None:
    """Where the examples lie in a batch of matrices, if each example has matrices of its own."""
    if at.fold.dim >= len(at.shape) - 2:
        return None
    return own_fold(matrix.shape[:-2], at.fold, at.shape[:-2])


def _by_block(tensor: Tensor, rows: Tensor, lead: torch.Size) -> Tensor:
    """(B, \\*lead, T, n), or what broadcasts to it, as (B, E, T, n): other dimensions join T.

    Args:
        tensor: broadcast to the dimensions of ``rows`` before the last.
        rows: the gradient at the output, in the same order.
        lead: dimensions of the batch of matrices, aligned at the right.
    """
    wide = tensor.expand(*rows.shape[:-1], tensor.shape[-1])
    count = rows.dim() - 3
    padded = [*[1] * (count - len(lead)), *lead]
    own = [n + 1 for n, size in enumerate(padded) if size != 1]
    rest = [n + 1 for n, size in enumerate(padded) if size == 1]
    ordered = wide.permute(0, *own, *rest, rows.dim() - 2, rows.dim() - 1)
    return ordered.reshape(len(wide), lead.numel(), -1, tensor.shape[-1])


class EinsumMeeting(Meeting):
    """Two operands, one of them derived; gradients are built.

    Args:
        of_input: where the examples lie in the other operand.
        letters: of the input, the output and the derived operand.
    """

    op = "einsum"

    def __init__(self, *args: Any, of_input: Fold, letters: tuple[str, str, str]) -> None:
        super().__init__(*args)
        self.of_input = of_input
        self.letters = letters

    def sides(self, own: str) -> Sides | None:
        """Inputs and outputs, where they are two runs of dimensions."""
        return _sides(self.letters, self.met[own].tensor.shape)

    def arranged(self, grad: Tensor) -> Tensor:
        """Other numbers of the examples' dimension keep its letter."""
        return self.at.rows(grad)

    def parts(self, inputs: tuple[Tensor, ...], grad: Tensor) -> dict[str, Contribution]:
        """An einsum of the input with the output's gradient, for every example."""
        x, g = working(self.of_input.rows(inputs[0])), working(grad)
        of_x, of_out, of_weight = self.letters
        matrix = _as_matrix(x, g, self.letters)
        if matrix is not None:
            return {"operand": matrix}
        # a letter of the weight alone is summed over: each of its numbers has the same gradient
        alone = [n for n, letter in enumerate(of_weight) if letter not in of_x + of_out]
        kept = "".join(letter for letter in of_weight if letter in of_x + of_out)
        size = self.met["operand"].tensor.shape
        used = of_x + of_out
        one = next(letter for letter in ascii_letters if letter not in used)  # of the examples

        def built() -> Tensor:
            found = torch.einsum(f"{one}{of_x},{one}{of_out}->{one}{kept}", x, g)
            for dim in alone:
                found = found.unsqueeze(dim + 1)
            return found.expand(len(x), *size)

        return {"operand": Dense(built)}


def _runs(letters: tuple[str, str, str]) -> tuple[list[str], str, str] | None:
    """Letters of positions, of inputs and of outputs; ``None``: it is no product of matrices."""
    of_x, of_out, of_weight = letters
    summed = "".join(letter for letter in of_weight if letter in of_x and letter not in of_out)
    made = "".join(letter for letter in of_weight if letter in of_out and letter not in of_x)
    shared = [letter for letter in of_x if letter in of_out]
    if not summed or not made or of_weight not in (summed + made, made + summed):
        return None
    if set(of_x) != {*shared, *summed} or set(of_out) != {*shared, *made}:
        return None
    return shared, summed, made


def _sides(letters: tuple[str, str, str], size: torch.Size) -> Sides | None:
    runs = _runs(letters)
    if runs is None:
        return None
    _, summed, made = runs
    first = len(summed) if letters[2] == summed + made else len(made)
    return size[:first].numel(), size[first:].numel()


def _as_matrix(x: Tensor, g: Tensor, letters: tuple[str, str, str]) -> Contribution | None:
    """Outer products, where the weight has inputs and outputs in two runs of dimensions."""
    runs = _runs(letters)
    if runs is None:
        return None
    shared, summed, made = runs
    near = _flat(x, letters[0], shared, summed)
    far = _flat(g, letters[1], shared, made)
    return Outer(near, far) if letters[2] == summed + made else Outer(far, near)


def _flat(tensor: Tensor, letters: str, shared: list[str], last: str) -> Tensor:
    order = [0, *(letters.index(letter) + 1 for letter in (*shared, *last))]
    return tensor.permute(order).flatten(len(shared) + 1).flatten(1, -2)


def einsum(seen: Seen, at: Arrangement, parameters: Parameters) -> Meeting:
    """``torch.einsum(equation, a, b)``."""
    tensors = einsum_tensors(seen)
    letters = letters_of(seen.args[0], tensors)
    if letters is None:
        raise NotPerExample("einsum was called with repeated letters")
    if len(tensors) != 2 or any(x.is_complex() for x in tensors):
        return _any_einsum(seen, letters, at, parameters)
    first = isinstance(seen.fact(tensors[0]), Fold)
    x, weight = tensors if first else reversed(tensors)
    of_x, of_weight = letters.operands if first else reversed(letters.operands)
    of_input = batch_of(seen, x)
    if of_x[of_input.dim] in of_weight:
        return _any_einsum(seen, letters, at, parameters)
    operands = derived_among(seen, {"operand": weight})
    return EinsumMeeting(
        operands,
        (x,),
        at,
        parameters,
        of_input=of_input,
        letters=(of_x, letters.out, of_weight),
    )


def _any_einsum(seen: Seen, letters: Letters, at: Arrangement, parameters: Parameters) -> Meeting:
    """Any number of operands, all of which may have the dimension of the examples."""
    letter = letters.out[at.fold.dim]
    folds: dict[int, Fold] = {}
    for n, operand in enumerate(letters.operands):
        if letter in operand:
            folds[n] = at.fold._replace(dim=operand.index(letter))
    facts = list(seen.facts)
    own: dict[int, Fold] = {}
    place = 0
    for n, (x, fact) in enumerate(seen.facts):
        if isinstance(fact, Derived):
            if n in folds:
                own[place] = folds[n]
            place += 1
        elif n in folds:
            facts[n] = (x, folds[n])
    return repeated(seen._replace(facts=facts), at, parameters, own)


MEETINGS = {
    "linear": linear,
    **dict.fromkeys(["matmul", "bmm", "mm", "mv"], matmul),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], addmm),
    "einsum": einsum,
}
