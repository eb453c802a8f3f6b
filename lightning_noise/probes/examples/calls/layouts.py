"""Where the examples lie in the result of a call, by where they lie in its arguments."""

from collections.abc import Callable

from torch import Tensor

from lightning_noise.probes.examples.calls import (
    channels,
    indexing,
    met_grouped,
    met_recurrent,
    products,
    transforms,
    views,
)
from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.pointwise import POINTWISE, pointwise
from lightning_noise.probes.examples.calls.reductions import REDUCTIONS
from lightning_noise.probes.examples.calls.seen import Seen

LayoutRule = Callable[[Seen, Tensor], "Fold | None"]

RULES: dict[str, LayoutRule] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **REDUCTIONS,
    **views.RULES,
    **indexing.RULES,
    **products.RULES,
    **channels.RULES,
    **met_recurrent.LAYOUTS,
    **met_grouped.LAYOUTS,
    **transforms.RULES,
}
