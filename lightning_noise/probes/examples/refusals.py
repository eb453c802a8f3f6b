"""Parts of a model that rule out or hide per-example gradients."""

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

    Then a single example has no gradient.
    """
    names: list[str] = []
    for name, part in module.named_modules():
        if uses_batch_statistics(part):
            names.append(name or type(part).__name__)
    if not names:
        return None
    return UnsupportedModelError(
        "batch_statistics",
        f"BatchNorm in train mode ties the examples of a batch together ({listed(names)}), so "
        "single examples have no gradients of their own",
        otherwise="Or use GroupNorm or LayerNorm, or put these layers into eval mode.",
    )


def mixed_examples(layers: Sequence[str], loss: bool) -> UnsupportedModelError | None:
    """The refusal of a model or a loss that mixes the examples of a batch; ``None`` if none does.

    Args:
        layers: those whose output for one example reaches others further on, the last first.
        loss: whether the loss couples the examples.
    """
    if layers:
        name = layers[0]
        layer = "the model itself"
        if name:
            layer = f"layer {name!r}"
        return UnsupportedModelError(
            "mixed_examples",
            f"the model mixes the examples of a batch: what {layer} gives for one example reaches "
            "the outputs of others, so single examples have no gradients of their own",
            otherwise="If the batch lies along dimension 1 (time first), put it along dimension 0 "
            "of the inputs of layers. If the rows of that layer are positions, and only by chance "
            "as many as examples, use another batch size.",
        )
    if loss:
        return UnsupportedModelError(
            "coupled_loss",
            "the loss couples the examples of a batch (as an in-batch contrastive loss does), so "
            "single examples have no gradients of their own",
            otherwise="The estimate then holds for micro-batches of that size.",
        )
    return None


def compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """All modules that run inside ``torch.compile``, in whatever way it was requested.

    Hooks that are added later either do not fire there or break the graph, and every attachment
    would compile it again.
    """
    for part in module.modules():
        # The class of what torch.compile(module) returns has no public name, and importing it takes
        # seconds.
        wrapped = type(part).__name__ == "OptimizedModule"
        in_place = getattr(part, "_compiled_call_impl", None) is not None
        forward_alone = hasattr(part.forward, "_torchdynamo_orig_callable")
        if wrapped or in_place or forward_alone:
            yield from part.modules()
