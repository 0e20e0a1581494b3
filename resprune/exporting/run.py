"""The folder of a run: the best network so far as a checkpoint like any other, and the state to go on from.

Files are replaced one by one, each of them whole. ``last.pt`` is written first and says which epoch was best,
so a run that is killed between two files mends the folder when it goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resprune import placing
from resprune.chain import ResidualChain
from resprune.checkpoint import CONFIG_FILE, EXITS_FILE, WEIGHTS_FILE
from resprune.errors import CheckpointError, OutputError, UsageError
from resprune.exporting import folder as output
from resprune.exporting.folder import CARD_FILE, METRICS_FILE, REPORT_FILE, STATE_FILE

_PATIENCE = 15.0
"""Seconds to wait for a lock: the workers of a run that was killed have it too, and take a few to notice."""
_ASIDE = ".resprune-replaced.draft"
"""Holds what a run replaces until its first state is written; a run that ends before puts it back."""
_GO_ON = "what was written before is whole, and --resume goes on from it"


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        path: The folder.
        identity: What makes a run this run and no other; JSON values by name.
    """

    path: Path
    identity: dict[str, Any]

    @contextmanager
    def begun(self, *, resume: bool, force: bool) -> Iterator[dict[str, Any] | None]:
        """Make the folder ready, and keep other runs out of it until the end.

        What ``force`` lets a run replace goes when its first state is written, and not before.

        Yields:
            The state to go on from, or None for a run from the start.

        Raises:
            OutputError: where the folder holds something else, cannot be written, or a run is going on in it.
            UsageError: where it belongs to another run.
            CheckpointError: where its state cannot be read.
        """
        with ExitStack() as locked:
            there = self.path.is_dir()
            if there:
                locked.enter_context(_alone(self.path))
                self._settle()  # what a run that was killed left
            locked.callback(self._settle)
            state = self._prepared(resume=resume, force=force)
            if not there:
                locked.enter_context(_alone(self.path))
            yield state

    def _prepared(self, *, resume: bool, force: bool) -> dict[str, Any] | None:
        if resume:
            state = self.state()
            if state is not None:
                return state
        elif not force and (self.path / STATE_FILE).exists():
            raise OutputError(
                "exists already, with the state of a run",
                where=self.path,
                hint="repeat that run's command with --resume to go on, or add --force to replace it",
            )
        if not resume or self.path.exists():
            output.refuse_existing(self.path, force)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if old := sorted(self.path.iterdir(), key=lambda entry: entry.name != CONFIG_FILE):
                (self.path / _ASIDE).mkdir()
                for entry in old:
                    entry.replace(self.path / _ASIDE / entry.name)
        except OSError as error:
            raise _unwritable(self.path, error, "choose another --out") from error
        return None

    def _settle(self) -> None:
        """Let go of what was set aside once there is a state, and put it back where there is none."""
        aside = self.path / _ASIDE
        if (self.path / STATE_FILE).exists():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.is_dir():
            with suppress(OSError):
                placing.clear(self.path, but=aside)
                placing.fill(self.path, aside, CONFIG_FILE)
                aside.rmdir()

    def state(self) -> dict[str, Any] | None:
        """Return the state that was written last, or None where there is no folder yet.

        Raises:
            CheckpointError: where it cannot be read.
            UsageError: where it belongs to another run.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UsageError(
                    f"no run to resume, {STATE_FILE} is missing", where=self.path, hint="leave --resume out"
                )
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except Exception as error:  # torch.load raises whatever a damaged file makes it stumble over
            raise CheckpointError(
                f"no state of a run ({type(error).__name__})", where=path, hint="start anew with --force"
            ) from error
        for name, mine in self.identity.items():
            if mine != identity.get(name):
                raise UsageError(
                    f"belongs to another run: {_difference(name, mine, identity.get(name))}",
                    where=self.path,
                    hint="repeat that run's command with --resume, or choose another --out",
                )
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Write what a run needs to go on, whole or not at all.

        Raises:
            OutputError: where it cannot be written; what was there stays.
        """
        content = state | {"identity": self.identity}
        try:
            self._replace(STATE_FILE, lambda draft: torch.save(content, draft))
            self._settle()
        except OutputError:
            with suppress(OSError):
                self.path.rmdir()  # where nothing is in it yet
            raise

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Write one JSON object a line for every epoch, whole or not at all."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._replace(METRICS_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))

    def write_report(self, report: dict[str, Any]) -> None:
        """Write what the run came to, and the hashes of its network's files, whole or not at all."""
        told = report | {"files": output.hashes(self.path)}
        self._replace(REPORT_FILE, lambda draft: output.write_json(draft, told))

    def withdraw(self) -> None:
        """Take the network out of the folder again; the run's state and figures stay."""
        for name in (CONFIG_FILE, WEIGHTS_FILE, EXITS_FILE, CARD_FILE, REPORT_FILE):
            (self.path / name).unlink(missing_ok=True)

    def write_network(
        self,
        chain: ResidualChain,
        provenance: dict[str, Any],
        card: str,
        report: dict[str, Any],
        check: Callable[[Path], object] = lambda draft: None,
    ) -> None:
        """Put a network into the folder in the place of the one before.

        The config goes first and comes back last: without it the folder is no checkpoint, so that weights
        of two epochs are never taken for one network.

        Args:
            chain: The network.
            provenance: Further keys of the config's ``resprune`` section.
            card: The ``README.md``.
            report: Of the run so far.
            check: Given the draft before it takes that place; what it raises leaves the one before.
        """
        draft = self.path / ".network.draft"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            output.write_network(chain, draft, provenance)
            (draft / CARD_FILE).write_text(card, encoding="utf-8")
            check(draft)
            output.write_report(draft, report)
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            placing.fill(self.path, draft, CONFIG_FILE)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _replace(self, name: str, write: Any) -> None:
        draft = self.path / f".{name}.draft"
        try:
            write(draft)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(self.path / name)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
            begun = (self.path / STATE_FILE).exists()
            raise _unwritable(self.path / name, error, _GO_ON if begun else "choose another --out") from error
        finally:
            with suppress(OSError):
                draft.unlink()


def _difference(name: str, mine: Any, other: Any) -> str:
    """Say in words what differs, down to the one key of a recipe that does."""
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in mine:
            if mine[key] != other.get(key):
                return f"{key} {mine[key]} instead of {other.get(key)}"
    return f"{name} {mine} instead of {other}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the system takes back at the end of the process, however that comes.

    Raises:
        OutputError: where another run holds it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    with ExitStack() as opened:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            until = time.monotonic() + _PATIENCE
            while True:
                try:
                    flock(descriptor, LOCK_EX | LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.2)
        except BlockingIOError as error:
            raise OutputError(
                "a run is going on in it", where=folder, hint="wait for its end, or choose another --out"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def _unwritable(path: Path, error: Exception, hint: str = _GO_ON) -> OutputError:
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    if "inline_container" in str(error):  # torch's writer tells no more than that it came to an end
        reason = "no room left, or a limit on the size of files"
    mend = "allow writing there" if isinstance(error, PermissionError) else "make room there"
    return OutputError(f"cannot be written ({reason})", where=path, hint=f"{mend}; {hint}")
