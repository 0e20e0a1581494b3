"""Pickled objects without their code: classes that are plain data, and stubs that stand for all others."""

from __future__ import annotations

import datetime
import io
import pickle
import pickletools
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from re import search
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_STUBS = 200
LEGACY_PICKLES = 4
"""Of a legacy torch file: torch's mark, its version, the machine, the content."""
_MOST_MODULES = 20_000
_LONGEST_PREFIX = 1000
_CLASS_ALONE = "resprune.class_alone"
_CLASS_ALONE_CODE = b"cresprune\nclass_alone\n"
_PARTS = ("_parameters", "_buffers", "_modules")
_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


class _Text(str):
    """A string of a class of its own, such as torch's version."""

    def __new__(cls, text: object = "") -> _Text:
        # str() of lists that hold a list many times over would fill the memory.
        if type(text) is not str:
            raise TypeError(f"a string is expected, got {type(text).__name__}")
        return super().__new__(cls, text)


def _as_dict(*_: object) -> dict[Any, Any]:
    """Stand for defaultdict, which torch's reader does not fill."""
    return {}


def _as_list(items: tuple[object, ...] = (), *_: object) -> list[object]:
    """Stand for deque, which torch's reader does not fill."""
    return list(items)


def _posix_path(*parts: object) -> PurePosixPath:
    # A path made of paths could double its length again and again.
    return PurePosixPath(*map(_Text, parts))


def _windows_path(*parts: object) -> PureWindowsPath:
    return PureWindowsPath(*map(_Text, parts))


class _NumberType:
    """Stand for numpy's types of plain numbers; there is no stub for types of any other form."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _NUMBERS:
            raise ValueError("a numpy type that is no plain number")
        self.code = code

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] == ">":
            self.code = f">{self.code}"


def _scalar(kind: _NumberType, stored: bytes) -> bool | int | float:
    """Return a numpy scalar as a number of Python's own."""
    return np.frombuffer(stored, kind.code, count=1)[0].item()


class _Array:
    """Stand for numpy's arrays, of which nothing is kept: they are no weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _class_alone(_: object, kind: object, *source: object) -> object:
    """Stand for what files of before torch 1.6 store for a module's class: the class and its source code."""
    return kind


def _plain() -> list[tuple[Any, str]]:
    """List what training scripts store beside weights, by the names that pickles have for it."""
    return [
        (Namespace, "argparse.Namespace"),
        (SimpleNamespace, "types.SimpleNamespace"),
        (_as_dict, "collections.defaultdict"),
        (_as_list, "collections.deque"),
        *((kind, f"builtins.{kind.__name__}") for kind in (int, float, list, dict)),
        *((kind, f"datetime.{kind.__name__}") for kind in (datetime.date, datetime.time, datetime.datetime)),
        *((kind, f"datetime.{kind.__name__}") for kind in (datetime.timedelta, datetime.timezone)),
        # Pure paths cannot touch a disk, and Windows' are read anywhere.
        *((_posix_path, f"{module}.{kind}") for module, kind in _paths("Posix")),
        *((_windows_path, f"{module}.{kind}") for module, kind in _paths("Windows")),
        (_class_alone, _CLASS_ALONE),
        (_Text, "torch.torch_version.TorchVersion"),
        (_NumberType, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
        *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    ]


def _paths(system: str) -> list[tuple[str, str]]:
    return [(m, k) for m in ("pathlib", "pathlib._local") for k in (f"{system}Path", f"Pure{system}Path")]


class Inert:
    """An object of a foreign class without that class: takes any arguments and state, and does nothing.

    Attributes:
        state: What the file stores as the object's attributes.
    """

    state: object = None

    def __new__(cls, *_: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    # torch's reader calls only what equals something allowed: here, what calling a stub gave.
    def __eq__(self, other: object) -> bool:
        return self is other or other is type(self)

    __hash__ = object.__hash__

    def __call__(self, *_: object) -> Inert:
        return type(self)()


class _InertDict(Inert):
    # torch's reader fills no other kinds of dicts than its own.
    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _InertList(Inert):
    def __new__(cls, *_: object) -> Any:
        return []


class Stubs:
    """The stubs that one file needs, found one refusal of torch's reader at a time."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Inert]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes and functions that have a stub."""
        return tuple(self._classes)

    def learn(self, refusal: str) -> bool:
        """Add or change the stub that a refusal asks for; False where no stub would help."""
        wanted = search(r"Unsupported global: GLOBAL (.+?) was not an allowed global by default", refusal)
        if wanted is not None:
            return len(self._classes) < MOST_STUBS and self._set(wanted[1], Inert)
        for filled, base in (("SETITEM", _InertDict), ("append to", _InertList), ("extend", _InertList)):
            for name, stub in self._classes.items():
                if f"Can only {filled}" in refusal and f"but got {stub!r}" in refusal:
                    return self._set(name, base)
        return False

    def _set(self, name: str, base: type[Inert]) -> bool:
        known = self._classes.get(name)
        if known is not None and issubclass(known, base):
            return False
        module, _, short = name.replace("\0", "").rpartition(".")
        self._classes[name] = type(short, (base,), {"__module__": module})
        return True

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let torch's restricted reader use plain data and these stubs."""
        wanted = _plain()
        for name, stub in self._classes.items():
            # torch names built-in functions without their module.
            wanted += [(stub, name), (stub, f"builtins.{name}")]
        before = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([entry for entry in wanted if entry not in before]):
            yield


def without_sources(content: bytes) -> bytes:
    """Return a legacy torch file in which modules' classes lie as torch's restricted reader takes them.

    Such files look ``("module", class, file, source)`` up as if it were stored elsewhere, with the code
    BINPERSID; here, it becomes the arguments of `_class_alone`.
    """
    file = io.BytesIO(content)
    pieces, done = [], 0
    for _ in range(LEGACY_PICKLES):
        for start, call in _module_classes(pickletools.genops(file)):
            pieces += [content[done:start], _CLASS_ALONE_CODE, content[start:call], pickle.REDUCE]
            done = call + 1
    return b"".join([*pieces, content[done:]])


def _module_classes(codes: Iterable[tuple[Any, Any, int | None]]) -> Iterator[tuple[int, int]]:
    """Yield where such a tuple begins and where it is looked up, in a pickle's codes."""
    marks: list[tuple[int, bool]] = []
    memo: dict[object, bool] = {}
    before, says_module, closed = "", False, (0, False)
    for code, argument, at in codes:
        name = code.name
        if name in ("BINPUT", "LONG_BINPUT"):  # the value before goes on lying on the stack
            memo[argument] = says_module
            continue
        says_module = memo.get(argument, False) if name in ("BINGET", "LONG_BINGET") else argument == "module"
        if before == "MARK" and says_module:
            marks[-1] = (marks[-1][0], True)
        if name == "MARK":
            marks.append((at or 0, False))
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            closed = marks.pop()
        elif name == "BINPERSID" and before == "TUPLE" and closed[1]:
            yield closed[0], at or 0
        before = name


def is_module(value: object) -> bool:
    """Tell whether a stub holds what a ``torch.nn.Module`` stores."""
    state = value.state if isinstance(value, Inert) else None
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in _PARTS)


def state_dict(module: Any) -> dict[str, Tensor]:
    """Return what ``module.state_dict()`` would, of a stub that `is_module`, in the same order.

    Raises:
        ValueError: where modules hold each other without end.
    """
    weights: dict[str, Tensor] = {}
    waiting = [("", module)]
    for _ in range(_MOST_MODULES):
        if not waiting or len(waiting[-1][0]) > _LONGEST_PREFIX:
            break
        prefix, module = waiting.pop()
        parameters, buffers, children = (module.state[part] for part in _PARTS)
        passing = module.state.get("_non_persistent_buffers_set") or ()
        own = parameters | {name: buffer for name, buffer in buffers.items() if name not in passing}
        weights |= {f"{prefix}{name}": t.detach() for name, t in own.items() if isinstance(t, Tensor)}
        below = [(f"{prefix}{name}.", child) for name, child in children.items() if is_module(child)]
        waiting += reversed(below)  # the last one waiting is the next one
    if waiting:
        raise ValueError("modules that hold each other, or too many of them")
    return weights


def without_modules(
    loaded: object, is_module: Callable[[object], bool], state_dict: Callable[[Any], dict[str, Any]]
) -> object:
    """Put state dicts in the place of modules: of the whole, or of what lies in dicts, which are changed."""
    if is_module(loaded):
        return state_dict(loaded)
    waiting: list[dict[Any, Any]] = [loaded] if isinstance(loaded, dict) else []
    seen = {id(loaded)}
    while waiting:
        holder = waiting.pop()
        for key, value in holder.items():
            if isinstance(value, dict) and id(value) not in seen:  # a pickled dict may hold itself
                seen.add(id(value))
                waiting.append(value)
            elif is_module(value):
                holder[key] = state_dict(value)
    return loaded


def tensors(loaded: object) -> Iterator[Tensor]:
    """Yield the tensors in dicts, lists, tuples and stubs, whatever holds itself or the same many times."""
    waiting: list[Iterable[Any]] = [(loaded,)]
    seen: set[int] = set()
    while waiting:
        for value in waiting.pop():
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, dict | list | tuple | Inert) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(_content(value))


def _content(holder: dict[Any, Any] | list[Any] | tuple[Any, ...] | Inert) -> Iterable[Any]:
    if isinstance(holder, Inert):
        return (holder.state,)
    return holder.values() if isinstance(holder, dict) else holder
