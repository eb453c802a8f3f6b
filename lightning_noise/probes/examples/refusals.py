"""Parts of a model that forbid or hide per-example gradients."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the base of all kinds, as torch's converters do

from lightning_noise.probes.examples.coverage import listed
from lightning_noise.probes.examples.errors import UnsupportedModelError


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by statistics of the batch, which ties its examples together."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def coupled_examples(module: nn.Module) -> UnsupportedModelError | None:
    """The refusal of a model in which BatchNorm uses the statistics of the batch.

    Then no example has a gradient of its own.
    """
    parts = [(name, part) for name, part in module.named_modules() if uses_batch_statistics(part)]
    if not parts:
        return None
    names = listed([name or type(part).__name__ for name, part in parts])
    return UnsupportedModelError(
        f"BatchNorm in train mode ties the examples of a batch together ({names}), so single "
        "examples have no gradients of their own",
        otherwise="Or use GroupNorm or LayerNorm, or put these layers into eval mode.",
    )


def mixed_examples(layers: Sequence[str], loss: bool) -> UnsupportedModelError | None:
    """The refusal of a model or a loss that mixes the examples of a batch; ``None``: none does.

    Args:
        layers: those whose output for one example reaches others further on, the last first.
        loss: whether the loss couples the examples.
    """
    if layers:
        layer = f"layer {layers[0]!r}" if layers[0] else "the model itself"
        return UnsupportedModelError(
            f"the model mixes the examples of a batch: what {layer} gives for one example reaches "
            "the outputs of others, so single examples have no gradients of their own",
            otherwise="Where the batch lies along dimension 1 (time first), put it along dimension "
            "0 of what layers get. Where the rows of that layer are not examples but as many by "
            "chance (positions), use another batch size.",
        )
    if loss:
        return UnsupportedModelError(
            "the loss couples the examples of a batch (as an in-batch contrastive loss does), so "
            "single examples have no gradients of their own",
            otherwise="The number then holds for micro-batches of that size.",
        )
    return None


def compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """All modules that run inside ``torch.compile``, however it was asked for.

    Hooks that are added later either do not fire there or break the graph, and every attachment
    compiles it anew.
    """
    for part in module.modules():
        # What torch.compile(module) returns: the class has no public name, and its import takes
        # seconds.
        whole = type(part).__name__ == "OptimizedModule"
        in_place = getattr(part, "_compiled_call_impl", None) is not None
        if whole or in_place or hasattr(part.forward, "_torchdynamo_orig_callable"):
            yield from part.modules()
