"""Why a curvature cannot be measured during training, each reason with its fix."""

from collections.abc import Sequence

from lightning_noise.core.reasons import Reason, Severity
from lightning_noise.probes.setup import Setup

FEWEST_MICRO_BATCHES = 3  # two whose gradients are compared, one for the curvature
ACCUMULATE = "Accumulate gradients over three micro-batches or more"


def curvature_reason(setup: Setup, geometries: Sequence[str], loss_fn: object) -> Reason | None:
    """Why a curvature cannot be measured in a run; ``None`` where it can.

    Args:
        setup: the facts of the run.
        geometries: the curvatures that are asked for.
        loss_fn: the user's function, ``None`` where there is none.
    """
    if setup.manual:
        return Reason(
            "curvature_manual",
            Severity.REFUSE,
            f"geometry {geometries[0]!r} needs a loop that announces its steps, but this one "
            "steps by itself",
            "Use measure_noise_scale at a checkpoint, with a loss_fn for each optimizer.",
        )
    most = max(setup.accumulation, setup.most_accumulation)
    if most < FEWEST_MICRO_BATCHES and loss_fn is None:
        return _too_few_micro_batches(geometries[0], most)
    return None


def _too_few_micro_batches(geometry: str, micro_batches: int) -> Reason:
    there = f"there are {micro_batches}"
    if micro_batches == 1:
        there = "there is one"
    return Reason(
        "curvature_groups",
        Severity.REFUSE,
        f"geometry {geometry!r} needs the gradients of two micro-batches and the curvature of a "
        f"third, but {there} per step and no loss_fn",
        f"{ACCUMULATE}, or pass loss_fn, (module, batch) -> mean loss, with which a batch can be "
        "split into pieces; or use measure_noise_scale at a checkpoint.",
    )


def no_pieces(geometry: str, pieces: int) -> Reason:
    """The batch has fewer rows than pieces are needed."""
    return Reason(
        "curvature_pieces",
        Severity.REFUSE,
        f"geometry {geometry!r} needs {pieces} pieces of a batch along its first dimension, but "
        "the batch holds no tensor with that many rows",
        f"{ACCUMULATE}.",
    )


def no_double_backward(error: Exception | None) -> Reason:
    """An operator of the model has no second derivative."""
    return Reason(
        "no_double_backward",
        Severity.REFUSE,
        f"geometry 'hessian' needs second derivatives, and the loss has none ({error})",
        "Pass loss_fn, (module, batch) -> mean loss, whose central differences take their place; "
        "or leave out the geometry. For attention, "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) in the training step has them too.",
    )


def reentrant(error: Exception) -> Reason:
    """Part of the model is checkpointed in the reentrant way."""
    return Reason(
        "reentrant_checkpoint",
        Severity.REFUSE,
        str(error).rstrip("."),
        "Or leave out the geometry.",
    )
