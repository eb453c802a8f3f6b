"""Operations on each number by itself, with broadcasting."""

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.names import names
from lightning_noise.probes.examples.calls.seen import Seen

POINTWISE = names(
    """
    abs acos acosh add addcdiv addcmul alpha_dropout asin asinh atan atan2 atanh bernoulli
    bfloat16 bitwise_and bitwise_not bitwise_or bitwise_xor bool ceil celu clamp clamp_max
    clamp_min clone contiguous copy copysign cos cosh cpu cuda deg2rad detach digamma div
    double dropout dropout1d dropout2d dropout3d elu elu empty_like eq erf erfc erfinv exp
    exp2 expm1 feature_alpha_dropout feature_dropout fill float float_power floor
    floor_divide floordiv fmod frac full_like gaussian ge gelu gt half hardshrink
    hardsigmoid hardswish hardtanh heaviside hypot int isfinite isinf isnan le leaky_relu
    lerp lgamma log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not
    logical_or logical_xor logit logsigmoid long lt masked_fill maximum minimum mish mod mul
    nan_to_num ne neg normal ones_like pos positive pow prelu rad2deg rand_like randint_like
    randn_like reciprocal relu relu6 remainder requires_grad round rrelu rsqrt rsub selu sgn
    sigmoid sign silu sin sinc sinh softplus softshrink softsign sqrt square sub tan tanh
    tanhshrink threshold to trunc type type_as uniform where xlogy zero zeros_like
    __get__data __get__real __get__imag angle complex conj conj_physical polar real imag
    resolve_conj resolve_neg
    """
)
# Of a derived tensor these are random, so that they cannot be repeated.
RANDOM = names(
    """
    alpha_dropout bernoulli dropout dropout1d dropout2d dropout3d feature_alpha_dropout
    feature_dropout rrelu
    """
)
DRAWN = names(
    """
    rand randn randint normal poisson multinomial bernoulli
    """
)
LIKE = names(
    """
    rand_like randn_like randint_like
    """
)


def pointwise(seen: Seen, out: Tensor) -> Fold | None:
    """All arguments with the examples must have them along the same dimension of the result."""
    if seen.name == "where" and len(seen.facts) == 1:
        return None  # the numbers of what a mask chooses
    found: Fold | None = None
    for tensor, fold in seen.batch:
        widened = fold.widened(tensor.shape, out.shape)
        if widened is None or (found is not None and widened != found):
            return None
        found = widened
    return found
