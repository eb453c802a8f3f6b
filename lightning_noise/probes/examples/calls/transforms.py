"""Fourier transforms, and the parts of complex numbers."""

from collections.abc import Callable, Mapping

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.reductions import dims_of
from lightning_noise.probes.examples.calls.seen import Seen

Rule = Callable[[Seen, Tensor], "Fold | None"]


def transformed(default: tuple[int, ...] | None) -> Rule:
    """Along some dimensions, of which the examples' must not be one.

    Args:
        default: dimensions where the call names none; ``None``: all, or as many as it gives sizes.
    """

    def rule(seen: Seen, out: Tensor) -> Fold | None:
        ((x, fold),) = seen.batch
        given = seen.argument(2, "dim")
        sizes = seen.argument(1, "s")
        if given is None and default is None and sizes is not None:
            given = tuple(range(-len(sizes), 0))
        dims = dims_of(default if given is None else given, x.dim())
        return None if dims is None or fold.dim in dims else fold

    return rule


def by_last(seen: Seen, out: Tensor) -> Fold | None:
    """Pairs of real numbers along the last dimension."""
    ((x, fold),) = seen.batch
    return fold if fold.dim < min(x.dim(), out.dim()) else None


def windowed(seen: Seen, out: Tensor) -> Fold | None:
    """``stft`` and ``istft`` of one signal per row."""
    x = seen.argument(0, "input")
    fold = seen.fact(x)
    if not isinstance(fold, Fold) or len(seen.batch) > 1:
        return None
    rows = 2 if seen.name == "stft" else 3 + x.is_floating_point()
    return fold if fold.dim == 0 and x.dim() == rows and len(out) == len(x) else None


ONE, TWO = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"), ("fft2", "ifft2", "rfft2", "irfft2")
ANY = ("fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn")
SHIFTS = ("fft_fftshift", "fft_ifftshift")


def shifted(seen: Seen, out: Tensor) -> Fold | None:
    """``fftshift``."""
    ((x, fold),) = seen.batch
    dims = dims_of(seen.argument(1, "dim"), x.dim())
    return None if dims is None or fold.dim in dims else fold


RULES: Mapping[str, Rule] = {
    **{f"fft_{name}": transformed((-1,)) for name in ONE},
    **{f"fft_{name}": transformed((-2, -1)) for name in TWO},
    **{f"fft_{name}": transformed(None) for name in ANY},
    **dict.fromkeys(SHIFTS, shifted),
    **dict.fromkeys(("view_as_real", "view_as_complex"), by_last),
    **dict.fromkeys(("stft", "istft"), windowed),
}
