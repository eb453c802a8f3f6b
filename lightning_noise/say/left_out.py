"""What a user reads about parts of a model that no number covers."""

from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.left_out import whole_bounds
from lightning_noise.say.words import number


def left_out_line(estimate: NoiseEstimate, size: float | None, share: float | None) -> str:
    """How far the noise scale of the whole model can be from that of the covered parameters.

    Args:
        estimate: of the covered parameters.
        size: examples of one optimizer step.
        share: of the squared gradient norm that is left out; ``None`` where it is not known.
    """
    exact = "b_simple is that of the covered parameters"
    if share is None or size is None or estimate.low is None:
        return f"{exact}; how far that of the whole model can be from it is not known"
    least, _ = whole_bounds(estimate.low, size, share)
    told = f"{exact}. The others had {100 * share:.2g} % of the squared gradient norm when checked"
    if estimate.high is None:
        return f"{told}; with that share b_simple of the whole model is at least {number(least)}"
    _, greatest = whole_bounds(estimate.high, size, share)
    return (
        f"{told}; with that share b_simple of the whole model lies between {number(least)} and "
        f"{number(greatest)}, whatever their own noise scale is"
    )
