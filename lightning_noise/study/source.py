"""The source text that a callable depends on, as far as it can be read, and values as stable text.

It covers functions and classes outside of the standard library and of installed packages: what a
function names (globals, closures, imports inside of it), the base classes and methods of a class,
and so on. Comments, docstrings and layout do not count. What is looked up at run time is not seen
(``getattr`` with a computed name, a configuration file, the content of the data).
"""

import dis
import functools
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from lightning_noise.study.text import (
    MOST_BYTES,
    digest,
    is_tensor,
    is_torch_module,
    of_class,
    of_code,
    of_tensor,
    without_address,
)

MOST_DEFINITIONS = 200
MOST_ITEMS = 1000  # of a container whose values are read
DEPTH = 4  # of containers and objects inside of each other

_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = [Path(sysconfig.get_paths()[key]) for key in _INSTALLED]
_PACKAGES = {"site-packages", "dist-packages"}
_PLAIN = (str, int, float, complex, bytes, type(None), type(Ellipsis))
_CACHED = type(functools.cache(len))
_MISSING = object()


def definitions(value: object) -> dict[str, str]:
    """``value`` as text under the name "", and each definition behind it under its own name."""
    return _Reader().read(value)


class _Reader:
    """Follows references from one value; each definition is read once."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._seen: dict[int, object] = {}  # holds the objects, so that no id is used twice
        self._open: deque[FunctionType | type] = deque()

    def read(self, value: object) -> dict[str, str]:
        self._found[""] = self._text(value, DEPTH)
        while self._open and len(self._found) < MOST_DEFINITIONS:
            found = self._open.popleft()
            if isinstance(found, FunctionType):
                self._note(found.__qualname__, of_code(found.__code__))
                self._follow(found)
            else:
                self._read_class(found)
        return self._found

    def _note(self, name: str, text: str) -> None:
        """Two definitions of one name are numbered in the order in which they are found."""
        key, count = name, 1
        while key in self._found:
            count += 1
            key = f"{name} ({count})"
        self._found[key] = text

    def _add(self, found: FunctionType | type) -> None:
        if id(found) not in self._seen and _is_own(found.__module__):
            self._seen[id(found)] = found
            self._open.append(found)

    def _read_class(self, found: type) -> None:
        functions = list(_functions(found))
        self._note(found.__qualname__, of_class(found, functions))
        for base in found.__mro__[1:]:
            self._add(base)
        for name, value in vars(found).items():
            if isinstance(value, _PLAIN) and not name.startswith("_"):
                self._note(f"{found.__qualname__}.{name}", repr(value))
        for function in functions:
            self._follow(function)

    def _follow(self, function: FunctionType) -> None:
        """Everything that the body of ``function`` refers to."""
        codes = list(_nested(function.__code__))
        names: dict[str, None] = {}
        for code in codes:
            names.update(dict.fromkeys(code.co_names))
        state = set(_assigned(codes))
        for name in names:
            if name not in state:
                value = function.__globals__.get(name, _MISSING)
                self._meet(name, value, names)
        for module in _imported(codes, function.__globals__):
            self._meet(module.__name__, module, names)
        cells = function.__closure__ or ()
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            if name in state:
                continue
            with suppress(ValueError):  # an empty cell
                self._meet(name, cell.cell_contents, names)
        for value in function.__defaults__ or ():
            self._text(value, DEPTH)
        for value in (function.__kwdefaults__ or {}).values():
            self._text(value, DEPTH)

    def _meet(self, name: str, value: object, names: Mapping[str, None]) -> None:
        value = _unwrapped(value)
        if value is _MISSING or id(value) in self._seen:
            return
        if isinstance(value, FunctionType | type):
            self._add(value)
        elif isinstance(value, ModuleType):
            self._meet_module(value, names)
        elif not isinstance(value, BuiltinFunctionType):
            if not isinstance(value, _PLAIN):  # plain ones are shared: two names may hold the same
                self._seen[id(value)] = value
            self._note(name, self._text(value, DEPTH))

    def _meet_module(self, module: ModuleType, names: Mapping[str, None]) -> None:
        if not _is_own(module.__name__):
            return
        self._seen[id(module)] = module
        for name in names:
            self._meet(name, vars(module).get(name, _MISSING), names)

    def _text(self, value: Any, depth: int) -> str:
        """``value`` as text that is the same in every process."""
        value = _unwrapped(value)
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, FunctionType | type):
            self._add(value)
            return value.__qualname__
        if isinstance(value, functools.partial):
            function = self._text(value.func, depth)
            arguments = self._text(value.args, depth)
            keywords = self._text(value.keywords, depth)
            return f"partial({function}, {arguments}, {keywords})"
        if isinstance(value, MethodType):
            self._text(value.__func__, depth)
            owner = self._text(value.__self__, depth)
            return f"{owner}.{value.__name__}"
        if isinstance(value, ModuleType):
            return value.__name__
        if is_tensor(value):
            return of_tensor(value)
        if is_torch_module(value):
            self._add(type(value))
            weights = self._text(value.state_dict(), depth)
            return f"{value!r} {weights}"
        if depth == 0:
            return type(value).__qualname__
        if isinstance(value, Mapping):
            return "{" + self._pairs(value, depth) + "}"
        if isinstance(value, list | tuple | set | frozenset):
            return f"{type(value).__name__}({self._items(value, depth)})"
        return self._object(value, depth)

    def _pairs(self, value: Mapping[Any, Any], depth: int) -> str:
        keys = []
        for key in list(value)[:MOST_ITEMS]:
            keys.append((self._text(key, depth - 1), key))
        found = []
        for text, key in sorted(keys):
            found.append(f"{text}: {self._text(value[key], depth - 1)}")
        if len(value) > MOST_ITEMS:
            found.append(f"{len(value)} in all")
        return ", ".join(found)

    def _items(self, value: Any, depth: int) -> str:
        found = []
        for one in list(value)[:MOST_ITEMS]:
            found.append(self._text(one, depth - 1))
        if isinstance(value, set | frozenset):
            found.sort()
        if len(value) > MOST_ITEMS:
            found.append(f"{len(value)} in all")
        return ", ".join(found)

    def _object(self, value: Any, depth: int) -> str:
        kind = type(value)
        self._add(kind)
        with suppress(TypeError, ValueError):
            content = memoryview(value).cast("B")
            return f"{kind.__qualname__}({digest(content[:MOST_BYTES])})"
        if not isinstance(getattr(value, "__dict__", None), dict):
            return without_address(value)
        state = vars(value)
        if not _is_own(kind.__module__):  # private attributes there often change with every use
            state = _public(state)
        return f"{kind.__qualname__}({self._pairs(state, depth)})"


def _public(state: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in state.items():
        if not name.startswith("_"):
            found[name] = value
    return found


def _unwrapped(value: Any) -> Any:
    """The function inside of a cache; a decorator written in Python is read like any function."""
    if isinstance(value, _CACHED):
        return inspect.unwrap(value)
    return value


def _is_own(module: str | None) -> bool:
    """Whether a module is the user's: neither of the standard library nor installed."""
    module = module or "builtins"
    root = module.partition(".")[0]
    if root == "__main__":
        return True
    if root in sys.stdlib_module_names or root == "lightning_noise":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return True
    return not _is_installed(Path(file))


def _is_installed(file: Path) -> bool:
    if not _PACKAGES.isdisjoint(file.parts):
        return True
    return any(file.is_relative_to(folder) for folder in _LIBRARIES)


def _functions(found: type) -> Iterator[FunctionType]:
    """The methods that a class itself defines."""
    for value in vars(found).values():
        candidates: tuple[object, ...] = (value,)
        if isinstance(value, staticmethod | classmethod):
            candidates = (value.__func__,)
        elif isinstance(value, property):
            candidates = (value.fget, value.fset)
        for function in candidates:
            if isinstance(function, FunctionType) and function.__module__ == found.__module__:
                yield function


def _nested(code: CodeType) -> Iterator[CodeType]:
    """A code object and those of the functions inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _assigned(codes: list[CodeType]) -> Iterator[str]:
    """Names outside of itself that a function assigns to: state of the process, not code."""
    for code in codes:
        for step in dis.get_instructions(code):
            in_closure = step.opname == "STORE_DEREF" and step.argval in codes[0].co_freevars
            if in_closure or step.opname == "STORE_GLOBAL":
                yield step.argval


def _imported(codes: list[CodeType], names: Mapping[str, Any]) -> Iterator[ModuleType]:
    """The user's modules that function bodies import; running the function would import them."""
    for code in codes:
        before: list[Any] = []
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME":
                with suppress(Exception):  # the run itself reports what cannot be imported
                    level = before[-2] or 0
                    name = "." * level + step.argval
                    yield from _own_module(name, names)
            before.append(step.argval)


def _own_module(name: str, names: Mapping[str, Any]) -> Iterator[ModuleType]:
    full = importlib.util.resolve_name(name, names.get("__package__"))
    root = full.partition(".")[0]
    if root in sys.stdlib_module_names:
        return
    spec = importlib.util.find_spec(root)
    if spec is None or spec.origin is None:
        return
    if not _is_installed(Path(spec.origin)):
        yield importlib.import_module(full)
