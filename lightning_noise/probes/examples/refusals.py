"""Parts of a model that forbid or hide per-example gradients."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of all kinds, as torch's own converters use it

from lightning_noise.probes.examples.coverage import UnsupportedModelError


def refuse_coupled(module: nn.Module) -> None:
    """Raises where BatchNorm uses the statistics of the batch: then no example has a gradient of its own.

    Raises:
        UnsupportedModelError: names the layers, the reason and the way out.
    """
    coupled = [
        name or type(part).__name__
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
    ]
    if coupled:
        shown = ", ".join(coupled[:5]) + (f" and {len(coupled) - 5} more" if len(coupled) > 5 else "")
        raise UnsupportedModelError(
            f"the examples probe needs gradients of single examples, but BatchNorm in train mode ties the examples of a batch "
            f"together ({shown}). Use GroupNorm or LayerNorm, put these layers into eval mode, or use the micro_batches probe "
            "with accumulate_grad_batches >= 2."
        )


def compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """All modules that run inside ``torch.compile``, however it was asked for.

    Hooks that are added later either do not fire there or break the graph, and every attachment compiles it anew.
    """
    for part in module.modules():
        # what torch.compile(module) returns; the class has no public name, and importing it takes seconds
        whole = type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        if whole or hasattr(part.forward, "_torchdynamo_orig_callable"):
            yield from part.modules()
