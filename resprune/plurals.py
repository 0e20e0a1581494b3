"""How many of something, in words."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 block``, ``3 blocks``, ``5,000 images``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
