"""What this installation and this machine are: libraries, extras, devices, memory. torch is imported last."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

EXTRAS = ("onnx", "hf", "data", "report", "tensorboard")
"""What users install besides the core; the others are for developers."""
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may use: version 2 of its control groups, and version 1."""
_BUILT_TOGETHER = ("torch", "torchvision", "timm")
"""They load compiled code of each other, and fail to where their builds do not match."""

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True)
class Library:
    """One that resprune needs.

    Attributes:
        name: Of its package.
        version: That is installed; None where it is not.
        needed: What resprune asks for, such as ``>=2.10``.
        extra: That asks for it; empty for the core.
        problem: Why it cannot be used; empty where it can, as far as was tried.
    """

    name: str
    version: str | None
    needed: str
    extra: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Accelerator:
    """A device besides the CPU.

    Attributes:
        name: As its maker calls it.
        memory: In bytes.
        capability: CUDA's version of its instructions, such as ``9.0``.
        bf16: Whether it computes in bfloat16, without emulation.
    """

    name: str
    memory: int
    capability: str
    bf16: bool


@dataclass(frozen=True)
class Environment:
    """What `resprune env` prints.

    Attributes:
        python: Its version.
        platform: System, kernel and processor.
        cores: That this process may use.
        threads: That torch uses; None where it cannot be imported.
        memory: That this process may use, bytes.
        cpu_bf16: Whether the CPU has instructions for bfloat16; without, it is emulated, slowly. None where
            torch does not say.
        cuda: Version that torch was built for; None for none.
        accelerators: That torch finds.
        libraries: Of the core, then of the extras.
    """

    python: str
    platform: str
    cores: int
    threads: int | None
    memory: int
    cpu_bf16: bool | None
    cuda: str | None
    accelerators: tuple[Accelerator, ...]
    libraries: tuple[Library, ...]

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """What keeps each extra from being used: names of its libraries; empty for those that are complete."""
        own = {extra: [one for one in self.libraries if one.extra == extra] for extra in EXTRAS}
        return {extra: tuple(one.name for one in found if one.problem) for extra, found in own.items()}

    @property
    def problems(self) -> tuple[Library, ...]:
        """Libraries of the core that cannot be used."""
        return tuple(one for one in self.libraries if one.problem and not one.extra)


def environment() -> Environment:
    """Look at the machine and the installation; what does not work is told, not raised."""
    libraries = tuple(_libraries())
    torch: Any = None
    with suppress(Exception):  # among the problems already
        torch = import_module("torch")
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        threads=torch and torch.get_num_threads(),
        memory=machine_memory(),
        cpu_bf16=None if torch is None else _cpu_bf16(torch),
        cuda=torch and torch.version.cuda,
        accelerators=() if torch is None else tuple(_accelerators(torch)),
        libraries=libraries,
    )


def machine_memory() -> int:
    """Return the machine's memory in bytes, or the part of it that a container may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            sizes.append(int(path.read_text(encoding="ascii")))
    return min(sizes)


def _libraries() -> Iterable[Library]:
    """Yield what the package's own metadata ask for."""
    wanted = [Requirement(line) for line in requires("resprune") or ()]
    core = [one for one in wanted if _applies(one, "")]
    yield from (_library(one, "") for one in core)
    for extra in EXTRAS:
        yield from (_library(one, extra) for one in wanted if one not in core and _applies(one, extra))


def _applies(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def _library(wanted: Requirement, extra: str) -> Library:
    needed = str(wanted.specifier)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Library(wanted.name, None, needed, extra, "not installed")
    problem = "" if wanted.specifier.contains(found, prereleases=True) else f"resprune needs {needed}"
    if not problem and wanted.name in _BUILT_TOGETHER:
        try:
            import_module(wanted.name)
        except Exception as error:  # compiled code may fail in any way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            problem = f"cannot be imported: {lines[0][:200]}"
    return Library(metadata(wanted.name)["Name"], found, needed, extra, problem)


def _cpu_bf16(torch: Any) -> bool | None:
    """Return whether the CPU multiplies bfloat16; torch has the names of the processors' own makers."""
    known = dict(getattr(torch.cpu, "get_capabilities", dict)())
    return any(known.get(name) for name in _CPU_BF16) if known else None


def _accelerators(torch: Any) -> Iterable[Accelerator]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        own = torch.cuda.get_device_properties(index)
        # Older ones emulate it, slowly; torch's own question is about the current device alone.
        bf16 = own.major >= 8 or torch.version.hip is not None
        yield Accelerator(own.name, own.total_memory, f"{own.major}.{own.minor}", bf16)
