"""Code and values as text that is the same in every process."""

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import torch

MOST_BYTES = 2**26  # of a tensor or array whose content is read


def of_code(code: CodeType) -> str:
    """The source of a function, or a hash of its bytecode where the source cannot be read."""
    try:
        if code.co_name == "<lambda>":
            return _of_lambda(code)
        return _plain_source(inspect.getsource(code))
    except (OSError, TypeError, SyntaxError):
        return f"source not readable, bytecode {digest(_bytecode(code))}"


def _of_lambda(code: CodeType) -> str:
    """The lambdas that begin on the line of this one, without the text around them."""
    lines, _ = inspect.findsource(code)
    tree = ast.parse("".join(lines))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            found.append(ast.unparse(node))
    return "\n".join(found)


def of_class(found: type, functions: Sequence[FunctionType]) -> str:
    """The source of a class, or that of its ``functions`` where it cannot be read."""
    try:
        return _plain_source(inspect.getsource(found))
    except (OSError, TypeError):  # as in a notebook, where the methods can still be read
        texts = [of_code(function.__code__) for function in functions]
        return "\n".join(texts)


def _plain_source(text: str) -> str:
    """Without comments, docstrings and layout."""
    text = textwrap.dedent(text)
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text.strip()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _bytecode(code: CodeType) -> bytes:
    parts = [code.co_code, repr(code.co_names).encode()]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            parts.append(_bytecode(constant))
        else:
            parts.append(repr(constant).encode())
    return b"\0".join(parts)


def is_tensor(value: object) -> "TypeGuard[torch.Tensor]":
    """Whether it is a tensor. Without torch there is none, and torch is not imported for this."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def is_torch_module(value: object) -> "TypeGuard[torch.nn.Module]":
    """Whether it is a module of torch, which is not imported for this."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module)


def of_tensor(value: "torch.Tensor") -> str:
    """Shape, type and a hash of the content."""
    import torch

    shape = f"{tuple(value.shape)}, {value.dtype}"
    try:
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        content = flat[:MOST_BYTES].numpy().tobytes()
        return f"tensor({shape}, {digest(content)})"
    except (RuntimeError, TypeError):  # sparse, quantized, or of a meta device
        return f"tensor({shape})"


def without_address(value: object) -> str:
    """``repr`` where it is the same in every process, otherwise the name of the type."""
    kind = type(value).__qualname__
    try:
        text = repr(value)
    except Exception:  # whatever a foreign __repr__ raises must not stop a study
        return kind
    if " at 0x" in text:
        return kind
    return text


def digest(content: bytes | memoryview) -> str:
    """A short hash."""
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
