"""What autograd has saved of the input of a linear map."""

from torch import Tensor

from lightning_noise.probes.examples.listener import packs_what_is_saved

# nodes of the product, and what each calls its saved left factor
PRODUCTS = {"MmBackward0": "_saved_self", "AddmmBackward0": "_saved_mat1"}
AROUND = frozenset({"AddBackward0", "ViewBackward0", "UnsafeViewBackward0"})


def as_saved(x: Tensor, out: Tensor) -> Tensor:
    """The input of ``functional.linear``, as autograd holds it for its output.

    Of an input that is not contiguous torch multiplies a copy, which autograd saves. To keep the
    input beside it would keep the same numbers twice. Where no such copy is found, which another
    version of torch may name otherwise, this is the input itself.
    """
    if x.is_contiguous() or x.dim() < 3 or x.numel() == 0 or packs_what_is_saved():
        return x
    node = out.grad_fn
    while node is not None and node.name() in AROUND:
        node = node.next_functions[0][0]
    if node is None or node.name() not in PRODUCTS:
        return x
    saved = getattr(node, PRODUCTS[node.name()])
    if saved is None or saved.dtype != x.dtype:
        return x
    if saved.shape != (x.numel() // x.shape[-1], x.shape[-1]) or not saved.is_contiguous():
        return x
    found: Tensor = saved.detach().view(x.shape)
    return found
