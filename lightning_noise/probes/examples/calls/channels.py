"""Operations on (examples, channels, …), on trailing dimensions, and losses."""

from collections.abc import Callable, Mapping

from torch import Tensor

from lightning_noise.probes.examples.calls.fold import Fold
from lightning_noise.probes.examples.calls.names import names
from lightning_noise.probes.examples.calls.seen import Seen


def by_rows(seen: Seen, out: Tensor) -> Fold | None:
    """Every slice along dimension 0 is treated by itself."""
    found = {fold for _, fold in seen.batch}
    if len(found) != 1:
        return None
    (fold,) = found
    x = seen.batch[0][0]
    same = out.dim() > 0 and out.shape[0] == x.shape[0]
    return fold if fold.dim == 0 and same else None


def convolved(seen: Seen, out: Tensor) -> Fold | None:
    """Without a dimension of examples, dimension 0 is that of channels."""
    x, weight = seen.argument(0, "input"), seen.argument(1, "weight")
    return by_rows(seen, out) if x.dim() == weight.dim() else None


def batch_normed(seen: Seen, out: Tensor) -> Fold | None:
    """With statistics of the past."""
    of_batch = seen.argument(5, "training", False)
    return None if of_batch else by_rows(seen, out)


def trailing(seen: Seen, out: Tensor) -> Fold | None:
    """The trailing dimensions are normalised."""
    ((x, fold),) = seen.batch
    shape = seen.argument(1, "normalized_shape")
    return fold if fold.dim < x.dim() - len(shape) else None


def padded(seen: Seen, out: Tensor) -> Fold | None:
    """Numbers around a tensor, not around the batch."""
    ((x, fold),) = seen.batch
    pads = seen.argument(1, "pad")
    behind = x.dim() - 1 - fold.dim  # dimensions after that of the examples
    around = pads[2 * behind : 2 * behind + 2]
    return None if any(around) else fold


PER_ROW = names(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices
    adaptive_max_pool3d affine_grid avg_pool1d avg_pool2d avg_pool3d max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices lp_pool1d lp_pool2d fold unfold group_norm instance_norm
    interpolate upsample grid_sample pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle local_response_norm binary_cross_entropy
    binary_cross_entropy_with_logits cross_entropy cross_entropy_loss nll_loss nll_loss_nd
    mse_loss l1_loss smooth_l1_loss huber_loss kl_div cosine_similarity
    cosine_embedding_loss embedding_bag
    """
)
RULES: Mapping[str, Callable[[Seen, Tensor], "Fold | None"]] = {
    **dict.fromkeys(PER_ROW, by_rows),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], convolved),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], convolved),
    **dict.fromkeys(("layer_norm", "rms_norm"), trailing),
    "batch_norm": batch_normed,
    "pad": padded,
}
