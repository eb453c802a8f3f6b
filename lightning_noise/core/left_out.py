"""The noise scale of a whole model, of which a measurement leaves a part out."""

import math


def whole_bounds(noise_scale: float, size: float, share: float) -> tuple[float, float]:
    """Least and greatest noise scale of the whole model, by the noise scale of the covered part.

    With index c for what is covered and u for what is left out, the whole has
    B = (T_c + T_u)/(S_c + S_u), where S is the part of |G|² and T that of tr(Σ). The squared norm
    of a gradient over b examples is Q = S + T/b in the mean, so the share s of it that is left out
    gives Q_u = S_u + T_u/b = s/(1 − s) · S_c · (1 + B_c/b). B grows with T_u between its two
    extremes: all of Q_u is signal (T_u = 0), or all of it is noise (S_u = 0). With
    r = Q_u/S_c these are B_c/(1 + r) and B_c + b·r. Both can be attained: nothing that is
    unknown of the part left out makes the bounds narrower.

    Args:
        noise_scale: B_c of the covered part, in examples.
        size: b, examples of the step whose gradient the share was taken of.
        share: s of the squared norm of that gradient, between 0 and 1.

    >>> low, high = whole_bounds(100.0, size=100.0, share=0.01)
    >>> round(low, 1), round(high, 1)
    (98.0, 102.0)
    >>> low, high = whole_bounds(100.0, size=10_000.0, share=0.01)
    >>> round(low, 1), round(high, 1)
    (99.0, 202.0)
    >>> whole_bounds(100.0, size=100.0, share=1.0)
    (0.0, inf)
    """
    if share >= 1:
        return 0.0, math.inf
    ratio = share / (1 - share) * (1 + noise_scale / size)
    return noise_scale / (1 + ratio), noise_scale + size * ratio
