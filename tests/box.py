"""A command in a container without a container engine: Linux namespaces, as those are made of.

    python box.py SCRATCH OUT COMMAND...

Everything is read-only but SCRATCH, which is new and empty, and the folder OUT. There is no network, not even
to this machine, and the user has no name, no home and no rights over the system.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

USER = 12345
UNAVAILABLE = 77
"""Exit status where the system makes no such box."""

_NEW_USER, _NEW_MOUNTS, _NEW_NETWORK = 0x10000000, 0x00020000, 0x40000000
_BIND, _NO_DEVICES, _NO_SETUID = 4096, 4, 2
_HERE, _RECURSIVE, _READ_ONLY = -100, 0x8000, 1
_MOUNT_SETATTR = 442  # the same number on every architecture; the C library has no name for it yet

_libc = ctypes.CDLL(None, use_errno=True)


def close(scratch: Path, out: Path) -> None:
    """Take from this process what a closed container does not have.

    Raises:
        OSError: where the system does not let it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_USER | _NEW_MOUNTS | _NEW_NETWORK)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{USER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{USER} {group} 1")
    _call("mount", bytes(out), bytes(out), None, _BIND, None)
    _let("/", read_only=True, flags=_RECURSIVE)
    _let(out, read_only=False)
    _call("mount", b"tmpfs", bytes(scratch), b"tmpfs", _NO_DEVICES | _NO_SETUID, None)


def _let(place: Path | str, *, read_only: bool, flags: int = 0) -> None:
    """Open or close a mount, and with the flag all that are below it."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY if read_only else 0, 0 if read_only else _READ_ONLY, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", ctypes.c_long(_MOUNT_SETATTR), _HERE, os.fsencode(place), flags, attributes, size)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def main(words: Sequence[str]) -> None:
    scratch, out, *command = words
    try:
        close(Path(scratch), Path(out))
    except (OSError, AttributeError) as error:
        print(error, file=sys.stderr)
        sys.exit(UNAVAILABLE)
    os.chdir("/")  # the old working folder would still be the one below the new mounts
    os.execv(command[0], command)  # a user without a name loses its rights here


if __name__ == "__main__":
    main(sys.argv[1:])
