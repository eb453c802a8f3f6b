"""Per-example gradients of a parameter from those of a tensor that was derived from it."""

import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_noise.probes.examples.calls.derived import Derived, Place
from lightning_noise.probes.examples.contribution import Contribution, Form, NotPerExample
from lightning_noise.probes.examples.directions import Signs

Sides = tuple[int, int]
Side = Literal["rows", "cols"]
HELD_AT_ONCE = 2**26  # numbers of per-example gradients that wait for other uses of a parameter


class Frame(NamedTuple):
    """Rows of a parameter, seen as a matrix.

    Args:
        rows: of the whole matrix.
        cols: of the whole matrix.
        start: first row of the part.
        height: rows of the part.
        transposed: whether the part is used as its transpose.
    """

    rows: int
    cols: int
    start: int
    height: int
    transposed: bool

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole matrix as it is."""
        return self.height == self.rows and not self.transposed

    @property
    def forms(self) -> tuple[Form, ...]:
        """Sketches of the whole matrix, along the smaller side first."""
        forms = Form("rows", self.rows), Form("cols", self.cols)
        return tuple(sorted(forms, key=lambda form: form.signs))


@functools.lru_cache(maxsize=4096)
def frame_of(place: Place | None, sides: Sides | None, numbers: int) -> Frame | None:
    """The rows that a matrix is, in a parameter of so many numbers; ``None``: it is none.

    >>> frame_of(Place((2, 3), (3, 1), offset=6), (2, 3), 12)
    Frame(rows=4, cols=3, start=2, height=2, transposed=False)
    >>> frame_of(Place((3, 4), (1, 3), offset=0), (3, 4), 12)
    Frame(rows=4, cols=3, start=0, height=4, transposed=True)
    """
    if place is None or sides is None:
        return None
    laid = torch.empty_strided(place.size, place.stride, device="meta")
    try:
        laid = laid.view(sides)
    except RuntimeError:  # its dimensions cannot be joined
        return None
    (length, width), (down, right) = laid.shape, laid.stride()
    transposed = right != 1 and width > 1
    height, cols, step, across = length, width, down, right
    if transposed:
        height, cols, step, across = width, length, right, down
    one_row = height == 1
    if (across != 1 and cols > 1) or (step != cols and not one_row):
        return None
    if numbers % cols or place.offset % cols:
        return None
    return Frame(numbers // cols, cols, place.offset // cols, height, transposed)


def check_held(part: Contribution) -> None:
    """Requires that all gradients can be held at once.

    Raises:
        NotPerExample: they are too large to wait for the other uses of the parameter.
    """
    if part.examples * part.numbers > HELD_AT_ONCE:
        raise NotPerExample("it is derived and used several times, too large to be added up")


class SomeSigns(Signs):
    """Of the signs for all rows of a parameter, those of some."""

    def __init__(self, signs: Signs, rows: slice) -> None:
        super().__init__(signs.packed, signs.size)
        self._rows = rows

    def dense(self, dtype: torch.dtype, also: int = 0) -> Tensor:
        """Shape (B, m, rows)."""
        return super().dense(dtype)[..., self._rows]


class Placed(Contribution):
    """Of a parameter, from a matrix that holds some of its rows.

    Args:
        part: gradients of the matrix, whose sketches are those of a matrix.
        frame: which rows.
        shape: of the parameter.
    """

    def __init__(self, part: Contribution, frame: Frame, shape: torch.Size) -> None:
        self.part = part
        self.frame = frame
        self.shape = shape
        self.examples = part.examples
        self.numbers = shape.numel()

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """That of the whole matrix, zero where the part has no rows."""
        if form is None or signs is None:
            return self.build(slice(0, self.examples))
        frame = self.frame
        along_rows = form.side == "rows"
        side: Side = "rows" if along_rows != frame.transposed else "cols"
        if not along_rows:
            found = self.part.sketch(Form(side, frame.cols), signs)
            return _among(found, frame, dim=2)
        some = SomeSigns(signs, slice(frame.start, frame.start + frame.height))
        return self.part.sketch(Form(side, frame.rows), some)

    def exact_is_cheap(self, sketches: int) -> bool:
        """As of the part."""
        return self.part.exact_is_cheap(sketches)

    def norms(self) -> list[Tensor]:
        """Of the part: the rest is zero."""
        return self.part.norms()

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*parameter.shape)."""
        return self._laid_out(self.part.build(rows))

    def total(self) -> Tensor:
        """The part's, among zeros."""
        return self._laid_out(self.part.total().unsqueeze(0))[0]

    def _laid_out(self, built: Tensor) -> Tensor:
        frame = self.frame
        # the part has dimensions of one number, too
        sides = (frame.cols, frame.height) if frame.transposed else (frame.height, frame.cols)
        matrix = built.reshape(len(built), *sides)
        if frame.transposed:
            matrix = matrix.mT
        return _among(matrix, frame, dim=1).reshape(len(built), *self.shape)


def _among(some: Tensor, frame: Frame, dim: int) -> Tensor:
    """Rows in the place that they have among all."""
    if frame.height == frame.rows:
        return some
    size = list(some.shape)
    size[dim] = frame.rows
    whole = some.new_zeros(size)
    whole.narrow(dim, frame.start, frame.height).copy_(some)
    return whole


class Pulled(Contribution):
    """Of a parameter, through any derivation: gradients are built some examples at a time.

    The total is the sum of what is built, although the way back is linear: so the self-check sees
    whether the derivation can be differentiated for several examples at once.

    Args:
        part: gradients of the derived tensor.
        derived: the tensor.
        name: of the parameter.
        parameters: by name.
    """

    def __init__(
        self,
        part: Contribution,
        derived: Derived,
        name: str,
        parameters: Mapping[str, Tensor],
    ) -> None:
        self.part = part
        self.derived = derived
        self.name = name
        self.parameters = parameters
        self.examples = part.examples
        self.numbers = max(parameters[name].numel(), part.numbers)

    def build(self, rows: slice) -> Tensor:
        """Shape (rows, \\*parameter.shape)."""
        built = self.part.build(rows)
        return self._pull(built.reshape(len(built), *self.derived.size))

    def _pull(self, gradients: Tensor) -> Tensor:
        return self.derived.pull(self.name, gradients, self.parameters)

    def sketch(self, form: Form | None, signs: Signs | None) -> Tensor:
        """The gradients as they are.

        Raises:
            NotPerExample: they are too large to wait for the other uses of the parameter.
        """
        check_held(self)
        return super().sketch(form, signs)

    def exact_is_cheap(self, sketches: int) -> bool:
        """There is no other way."""
        return True
