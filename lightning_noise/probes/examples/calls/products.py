"""Products of matrices, and look-ups in tables."""

from collections.abc import Callable, Mapping
from string import ascii_letters
from typing import NamedTuple

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.seen import Seen


class Letters(NamedTuple):
    """The dimensions of an ``einsum``, with a letter for each that ``...`` stood for."""

    operands: tuple[str, ...]
    out: str


def last_dim(seen: Seen, out: Tensor) -> Fold | None:
    """The last dimension is mapped to another one."""
    found = {fold for x, fold in seen.batch if fold.dim < x.dim() - 1}
    return found.pop() if len(found) == 1 and _all_before(seen, 1) else None


def _all_before(seen: Seen, last: int) -> bool:
    return all(fold.dim < x.dim() - last for x, fold in seen.batch)


def looked_up(seen: Seen, out: Tensor) -> Fold | None:
    """Every index becomes a row."""
    ids = seen.argument(0, "input")
    fold = seen.fact(ids)
    return fold if isinstance(fold, Fold) and out.dim() == ids.dim() + 1 else None


def product(seen: Seen, out: Tensor) -> Fold | None:
    """a @ b, with broadcasting: the sum over the examples must not be taken."""
    a, b = seen.argument(0, "input"), seen.argument(1, "other")
    if b is None:
        b = seen.argument(1, "mat2", seen.kwargs.get("vec"))
    return of_product(seen, a, b, out)


def of_product(seen: Seen, a: Tensor, b: Tensor, out: Tensor) -> Fold | None:
    """Layout of a @ b."""
    found: list[Fold | None] = []
    rows, cols = int(a.dim() > 1), int(b.dim() > 1)  # a vector has neither
    for x, is_first in ((a, True), (b, False)):
        fold = seen.fact(x)
        if not isinstance(fold, Fold):
            continue
        from_end = x.dim() - fold.dim  # 1: the last dimension
        if from_end > 2:
            found.append(fold._replace(dim=out.dim() - (from_end - 2) - rows - cols))
        elif is_first and from_end == 2:
            found.append(fold._replace(dim=out.dim() - rows - cols))
        elif not is_first and from_end == 1 and x.dim() > 1:
            found.append(fold._replace(dim=out.dim() - 1))
        else:
            return None
    return found[0] if len(set(found)) == 1 else None


def added_product(seen: Seen, out: Tensor) -> Fold | None:
    """c + a @ b."""
    c = seen.argument(0, "input")
    a = seen.argument(1, "mat1", seen.kwargs.get("batch1", seen.kwargs.get("mat")))
    b = seen.argument(2, "mat2", seen.kwargs.get("batch2", seen.kwargs.get("vec")))
    fold = seen.fact(c)
    if not isinstance(seen.fact(a), Fold) and not isinstance(seen.fact(b), Fold):
        return fold.widened(c.shape, out.shape) if isinstance(fold, Fold) else None
    found = of_product(seen, a, b, out)
    if isinstance(fold, Fold) and fold.widened(c.shape, out.shape) != found:
        return None
    return found


def attention(seen: Seen, out: Tensor) -> Fold | None:
    """softmax(q kᵀ) v for each pair of matrices."""
    return _in_front(seen, out)


def distances(seen: Seen, out: Tensor) -> Fold | None:
    """Of the rows of two matrices, as in a @ bᵀ."""
    a, b = seen.argument(0, "x1"), seen.argument(1, "x2")
    found: set[Fold | None] = set()
    for x, place in ((a, out.dim() - 2), (b, out.dim() - 1)):
        fold = seen.fact(x)
        if not isinstance(fold, Fold):
            continue
        from_end = x.dim() - fold.dim
        if from_end == 1:
            return None
        before = out.dim() - from_end
        found.add(fold._replace(dim=place if from_end == 2 else before))
    return found.pop() if len(found) == 1 else None


def _in_front(seen: Seen, out: Tensor) -> Fold | None:
    """All but the last two dimensions are broadcast."""
    if not _all_before(seen, 2):
        return None
    found = {fold.widened(x.shape[:-2], out.shape[:-2]) for x, fold in seen.batch}
    return found.pop() if len(found) == 1 else None


def letters_of(equation: str, tensors: list[Tensor]) -> Letters | None:
    """The dimensions by letters; ``None``: a letter comes twice in an operand."""
    equation = equation.replace(" ", "")
    given, _, out = equation.partition("->")
    operands = given.split(",")
    if "->" not in equation:
        plain = given.replace(",", "").replace(".", "")
        once = sorted(letter for letter in set(plain) if plain.count(letter) == 1)
        out = ("..." if "..." in given else "") + "".join(once)
    dots = [x.dim() - len(o) + 3 for x, o in zip(tensors, operands, strict=True) if "..." in o]
    unused = [letter for letter in ascii_letters if letter not in equation]
    fresh = "".join(unused[: max(dots, default=0)])
    named: list[str] = []
    for operand, x in zip(operands, tensors, strict=True):
        width = x.dim() - len(operand) + 3
        named.append(operand.replace("...", fresh[len(fresh) - width :] if width else ""))
    if any(len(set(operand)) < len(operand) for operand in named):
        return None
    return Letters(tuple(named), out.replace("...", fresh))


def einsum_tensors(seen: Seen) -> list[Tensor]:
    """The operands, given one by one or as a list."""
    given = seen.args[1:]
    return list(given[0]) if len(given) == 1 and type(given[0]) in (list, tuple) else list(given)


def einsum(seen: Seen, out: Tensor) -> Fold | None:
    """By the letter of the examples."""
    if not isinstance(seen.args[0], str):
        return None
    tensors = einsum_tensors(seen)
    letters = letters_of(seen.args[0], tensors)
    if letters is None:
        return None
    found: set[tuple[str, int]] = set()
    for x, operand in zip(tensors, letters.operands, strict=True):
        fold = seen.fact(x)
        if isinstance(fold, Fold):
            found.add((operand[fold.dim], fold.inner))
    if len(found) != 1:
        return None
    ((letter, inner),) = found
    if letter not in letters.out:
        return None
    return Fold(seen.batch[0][1].examples, letters.out.index(letter), inner)


RULES: Mapping[str, Callable[[Seen, Tensor], "Fold | None"]] = {
    **dict.fromkeys(("linear", "bilinear"), last_dim),
    **dict.fromkeys(["matmul", "bmm", "mm", "mv"], product),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], added_product),
    "scaled_dot_product_attention": attention,
    "cdist": distances,
    "embedding": looked_up,
    "one_hot": looked_up,
    "einsum": einsum,
}
