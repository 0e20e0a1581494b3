"""How tuples in a pickle hold each other, found without unpickling: hashing a deep one ends the process."""

from __future__ import annotations

import pickletools
from typing import IO

DEEPEST = 100
MOST_PARTS = 1_000_000
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_HAND_ON = ("REDUCE", "NEWOBJ", "BINPERSID")
"""What is made of a tuple may be a part of it."""


def check(stream: IO[bytes]) -> None:
    """Follow the stack of the next pickle in a stream, in the codes that torch's restricted reader knows.

    Raises:
        ValueError: where tuples are too deep or too large, or the pickle is damaged.
        IndexError, KeyError: where the pickle is damaged.
    """
    stack: list[tuple[int, int]] = []  # (tuples in each other, parts in all of them)
    marks: list[int] = []
    memo: dict[object, tuple[int, int]] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code.name == "MARK":
            marks.append(len(stack))
        else:
            before = code.stack_before
            marked = pickletools.markobject in before
            start = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
            taken, stack[start:] = stack[start:], []
            depth = max((depth for depth, _ in taken), default=0)
            parts = 1 + sum(parts for _, parts in taken)
            if code.name in _TUPLES:
                depth += 1
            elif code.name not in _HAND_ON:
                depth, parts = 0, 1
            if depth > DEEPEST or parts > MOST_PARTS:
                raise ValueError(f"tuples of {depth} levels and {parts:,} parts")
            stack += [(depth, parts)] * len(code.stack_after)
