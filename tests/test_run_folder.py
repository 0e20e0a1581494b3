"""The folder of a run: one run at a time, and what is told where nothing can be written."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from resprune.errors import OutputError
from resprune.exporting import run
from resprune.exporting.folder import STATE_FILE
from resprune.exporting.run import RunFolder

IDENTITY = {"checkpoint": "abc"}
HOLDER = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    """A run that was stopped."""
    folder = RunFolder(tmp_path / "run", IDENTITY)
    with folder.begun(resume=False, force=False) as state:
        assert state is None
        folder.write_state({"epoch": 1})
    return folder


@pytest.mark.parametrize(("resume", "force"), [(True, False), (False, True)])
def test_a_second_run_is_kept_out(
    begun: RunFolder, resume: bool, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_PATIENCE", 0.0)
    with begun.begun(resume=True, force=False) as state:
        assert state is not None
        other = RunFolder(begun.path, IDENTITY)
        with (
            pytest.raises(OutputError, match="a run is going on in it; wait for its end"),
            other.begun(resume=resume, force=force),
        ):
            pass
        assert (begun.path / STATE_FILE).exists()
    with begun.begun(resume=True, force=False) as state:  # given back
        assert state is not None
        assert state["epoch"] == 1


def test_a_run_that_fails_gives_the_folder_back(begun: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), begun.begun(resume=True, force=False):
        raise ZeroDivisionError
    with begun.begun(resume=True, force=False) as state:
        assert state is not None


def test_a_run_waits_for_one_that_was_just_killed(begun: RunFolder) -> None:
    """Its workers hold the lock until they notice."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, begun.path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.5, holder.kill).start()
        start = time.monotonic()
        with begun.begun(resume=True, force=False) as state:
            assert state is not None
        assert holder.wait() != 0
        assert time.monotonic() - start > 0.2


def no_room(content: object, file: Path) -> None:
    file.write_bytes(b"x")
    raise RuntimeError(
        "[enforce fail at inline_container.cc:671] . unexpected pos 979328 vs 979224\nframe #0: c10::Throw"
    )


def test_no_room_for_a_state_is_told_in_plain_words(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", no_room)
    with pytest.raises(OutputError) as caught:
        begun.write_state({"epoch": 2})
    assert str(caught.value) == (
        f"{begun.path / STATE_FILE}: cannot be written (no room left, or a limit on the size of files);"
        " make room there; what was written before is whole, and --resume goes on from it"
    )
    monkeypatch.undo()
    assert [path.name for path in begun.path.iterdir()] == [STATE_FILE]
    state = begun.state()
    assert state is not None
    assert state["epoch"] == 1


def test_no_room_for_the_first_state_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run", IDENTITY)
    monkeypatch.setattr(torch, "save", no_room)
    with (
        folder.begun(resume=False, force=False),
        pytest.raises(OutputError, match=r"make room there; choose another --out$"),
    ):
        folder.write_state({})
    assert not folder.path.exists()


def test_what_may_not_be_written_needs_no_room(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: object, file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(torch, "save", refused)
    with pytest.raises(OutputError, match=r"\(Permission denied\); allow writing there; what was written"):
        begun.write_state({"epoch": 2})


def test_what_is_replaced_goes_with_the_first_state_and_not_before(begun: RunFolder) -> None:
    def fail() -> None:
        with begun.begun(resume=False, force=True) as state:
            assert state is None
            assert not (begun.path / STATE_FILE).exists()
            (begun.path / "tracks").mkdir()
            raise ZeroDivisionError

    (begun.path / "tracks").mkdir()
    (begun.path / "tracks" / "old").touch()
    with pytest.raises(ZeroDivisionError):
        fail()
    found = {str(path.relative_to(begun.path)) for path in begun.path.rglob("*")}
    assert found == {STATE_FILE, "tracks", "tracks/old"}
    with begun.begun(resume=False, force=True):
        begun.write_state({"epoch": 7})
        assert [path.name for path in begun.path.iterdir()] == [STATE_FILE]
    state = begun.state()
    assert state is not None
    assert state["epoch"] == 7


def test_a_run_that_was_killed_before_its_first_state_gives_back_what_it_replaces(begun: RunFolder) -> None:
    aside = begun.path / run._ASIDE
    aside.mkdir()
    (begun.path / STATE_FILE).rename(aside / STATE_FILE)
    with (
        pytest.raises(OutputError, match="exists already, with the state"),
        begun.begun(resume=False, force=False),
    ):
        pass
    assert [path.name for path in begun.path.iterdir()] == [STATE_FILE]
