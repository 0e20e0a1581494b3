"""How outputs take their place: nothing of the user's is replaced, and a draft stands in until all is well."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resprune.errors import OutputError


def refuse(path: Path, force: bool, is_ours: Callable[[Path], bool], kind: str) -> None:
    """Refuse what exists, unless it is resprune's own and to be replaced.

    Args:
        path: Where something is to be written.
        force: Replace what is there.
        is_ours: Tells whether resprune wrote it.
        kind: What that would be, in words.

    Raises:
        OutputError: says why.
    """
    check_access(path)
    try:
        if not path.exists() and not path.is_symlink():
            return
        ours = is_ours(path)
        waits = stays(path) and not any(path.iterdir())  # a mount has to be there before
    except OSError as error:
        raise unwritable(path, error) from error
    if not ours:
        raise OutputError(
            f"exists and is no {kind} of resprune's, so it is not replaced",
            where=path,
            hint="choose another --out",
        )
    if not force and not waits:
        raise OutputError("exists already", where=path, hint="add --force to replace it")


def check_access(path: Path) -> None:
    """Find out now, and not after an hour of work, that nothing may be written where a path will be.

    Raises:
        OutputError: says why.
    """
    try:
        target = path.absolute()
        place = target if stays(target) else next(parent for parent in target.parents if parent.exists())
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            closed = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(closed, os.strerror(closed))
    except OSError as error:
        raise unwritable(path, error) from error


def stays(folder: Path) -> bool:
    """Whether a folder can be filled but not replaced: a mount, or below a folder where nothing may be written.

    So it is in a container that may write to nothing but ``--out``.
    """
    target = folder.absolute()
    return target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK | os.X_OK))


@contextmanager
def drafted(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a hidden folder beside a path, and remove it in the end if it is still there.

    Args:
        path: What is to be written.
        within: The hidden folder's place, if it is another.

    Raises:
        OutputError: in the place of whatever the system refuses meanwhile.
    """
    draft = (within or path.absolute().parent) / f".resprune-{os.getpid()}.draft"
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def placed(folder: Path, key: str = "") -> Iterator[Path]:
    """Yield a hidden folder beside the target that takes its place when the block ends without an error.

    A target that `stays` has it inside, and is filled file by file.

    Args:
        folder: What is there is replaced: see `refuse` for what may be.
        key: Name of the file without which a folder is nothing: the first to go and the last to come.

    Raises:
        OutputError: where nothing can be written there.
    """
    target = folder.absolute()
    if stays(target):
        with drafted(folder, target) as draft:
            yield draft
            clear(target, key, but=draft)
            fill(target, draft, key)
        return
    old = target.with_name(f".resprune-{os.getpid()}.old")
    try:
        with drafted(folder) as draft:
            yield draft
            if target.exists():
                target.rename(old)
            draft.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        elif old.exists():
            shutil.rmtree(old, ignore_errors=True)


def marks(path: Path) -> object:
    """Return what changes when a file, or any file of a folder, is replaced; None where there is none."""
    try:
        entries = path.iterdir() if path.is_dir() else [path]
        found = [(entry.name, entry.lstat()) for entry in entries if not entry.name.endswith(".draft")]
    except OSError:
        return None
    return sorted((name, stat.st_ino, stat.st_mtime_ns) for name, stat in found)


def clear(folder: Path, key: str = "", but: Path | None = None) -> None:
    """Empty a folder.

    Args:
        folder: The folder itself stays.
        key: See `placed`.
        but: What stays in it.
    """
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name != key):
        if entry == but:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def fill(folder: Path, draft: Path, key: str = "") -> None:
    """Move a draft's files into a folder; see `placed` for the key."""
    for file in sorted(draft.iterdir(), key=lambda file: file.name == key):
        file.replace(folder / file.name)


def write_text(path: Path, content: str) -> None:
    """Write one text file; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file whole or not at all, replacing what was there; pipes and devices are written to.

    Raises:
        OutputError: where it cannot be written.
    """
    if path.is_dir():
        raise OutputError("is a folder, not a file", where=path, hint="give a file name")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            draft.write_bytes(content)
            draft.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return what tells the user of an error of the system's."""
    hint = "it is a mount: name a folder in it" if error.errno == errno.EBUSY else None
    return OutputError(f"cannot be written ({error.strerror or error})", where=path, hint=hint)
