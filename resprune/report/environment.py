"""What ``resprune env`` prints: the part of a report of a bug that is the same for all."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resprune.machine import Environment, Library
from resprune.plurals import counted
from resprune.report.results import parts

_GIB = 2**30


def result(found: Environment) -> dict[str, Any]:
    """Return what ``resprune env --json`` prints."""
    libraries = [asdict(library) for library in found.libraries]
    extras = {extra: {"missing": list(missing)} for extra, missing in found.missing.items()}
    return parts.opening("env") | asdict(found) | {"libraries": libraries, "extras": extras}


def table(found: Environment) -> RenderableType:
    """Return it as a table, and what does not work below it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("resprune", version("resprune"))
    grid.add_row("Python", f"{found.python} on {found.platform}")
    threads = "" if found.threads is None else f", {counted(found.threads, 'thread')} of torch"
    bf16 = {True: ", bf16", False: ", no bf16", None: ""}[found.cpu_bf16]
    grid.add_row("CPU", f"{counted(found.cores, 'core')}{threads}, {found.memory / _GIB:.1f} GiB{bf16}")
    for device in found.accelerators:
        bf16 = "bf16" if device.bf16 else "no bf16"
        grid.add_row("GPU", f"{device.name}, {device.memory / _GIB:.1f} GiB, sm {device.capability}, {bf16}")
    if not found.accelerators:
        built = "without CUDA" if found.cuda is None else f"for CUDA {found.cuda}"
        grid.add_row("GPU", f"none found (torch is built {built})")
    core = [library for library in found.libraries if not library.extra]
    grid.add_row("libraries", ", ".join(f"{own.name} {own.version or 'missing'}" for own in core))
    for extra, missing in found.missing.items():
        own = [library for library in found.libraries if library.extra == extra]
        there = ", ".join(f"{one.name} {one.version}" for one in own)
        lacking = f"without {', '.join(missing)}: pip install 'resprune[{extra}]'"
        grid.add_row(f"[{extra}]", Text(lacking if missing else there))
    return Group(grid, *(Text(_told(library), style="red") for library in found.problems))


def _told(library: Library) -> str:
    return f"{library.name} {library.version or ''}: {library.problem}".replace(" :", ":")
