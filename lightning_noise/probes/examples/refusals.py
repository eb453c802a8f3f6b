"""Parts of a model that forbid or hide per-example gradients."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of all kinds, as torch's own converters use it

from lightning_noise.probes.examples.coverage import UnsupportedModelError

FIX = "Use the micro_batches probe with accumulate_grad_batches >= 2"


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by statistics of the batch, which ties its examples together."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def refuse_coupled(module: nn.Module) -> None:
    """Raises where BatchNorm uses the statistics of the batch: then no example has a gradient of its own.

    Raises:
        UnsupportedModelError: names the layers, the reason and the way out.
    """
    parts = [(name, part) for name, part in module.named_modules() if uses_batch_statistics(part)]
    coupled = [name or type(part).__name__ for name, part in parts]
    if coupled:
        shown = ", ".join(coupled[:5]) + (f" and {len(coupled) - 5} more" if len(coupled) > 5 else "")
        raise UnsupportedModelError(
            f"the examples probe needs gradients of single examples, but BatchNorm in train mode ties the examples of a batch "
            f"together ({shown}). Use GroupNorm or LayerNorm, put these layers into eval mode, or use the micro_batches probe "
            "with accumulate_grad_batches >= 2."
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
            f"the outputs of others, so single examples have no gradients of their own. {FIX}. "
            "Where the batch lies along dimension 1 (time first), put it along dimension 0 of what "
            "layers get. Where the rows of that layer are not examples but as many by chance "
            "(positions), use another batch size."
        )
    if loss:
        return UnsupportedModelError(
            "the loss couples the examples of a batch (as an in-batch contrastive loss does), so "
            f"single examples have no gradients of their own. {FIX}; its number holds for "
            "micro-batches of that size."
        )
    return None


def compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """All modules that run inside ``torch.compile``, however it was asked for.

    Hooks that are added later either do not fire there or break the graph, and every attachment compiles it anew.
    """
    for part in module.modules():
        # what torch.compile(module) returns; the class has no public name, and importing it takes seconds
        whole = type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        if whole or hasattr(part.forward, "_torchdynamo_orig_callable"):
            yield from part.modules()
