"""The program in a box: written are only ``--out`` and a temporary folder, there is no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import box
import pytest

import resprune

PROBE = """
import errno, os, pwd, socket, sys
from pathlib import Path

def refusal(attempt):
    try:
        attempt()
    except (OSError, KeyError) as error:
        return getattr(error, "errno", None) or type(error)

user, package, home, scratch, out = sys.argv[1:]
assert os.getuid() == int(user) and refusal(lambda: pwd.getpwuid(os.getuid())) is KeyError
assert "CapEff:\\t0000000000000000" in Path("/proc/self/status").read_text()
for closed in (package, home, "/", "/tmp", "/var/tmp"):
    assert refusal((Path(closed) / "new").touch) == errno.EROFS, closed
for address in ("127.0.0.1", "192.0.2.1"):
    assert refusal(lambda: socket.create_connection((address, 80))) == errno.ENETUNREACH, address
for folder in (scratch, out):
    (Path(folder) / "new").touch()
    (Path(folder) / "new").unlink()
"""

ALL = """
import sys
from resprune.cli.app import app
for line in sys.stdin.read().splitlines():
    print(f"status {app(line.split(), standalone_mode=False) or 0}", flush=True)
"""


class Box:
    """Runs Python in a box; see `box`."""

    def __init__(self, place: Path) -> None:
        self.home, self.scratch, self.out = (place / name for name in ("home", "scratch", "out"))
        for folder in (self.home, self.scratch, self.out):
            folder.mkdir()

    def python(
        self, code: str, *words: object, stdin: str = "", temporary: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run code with arguments; the test is skipped where there is no such box."""
        package = str(Path(resprune.__file__).parents[1])
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": package,
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.home),
            "TMPDIR": str(temporary or self.scratch),
        }
        command = [sys.executable, box.__file__, self.scratch, self.out, sys.executable, "-c", code, *words]
        done = subprocess.run(
            list(map(str, command)), input=stdin, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode == box.UNAVAILABLE:
            pytest.skip(f"no box can be made here ({done.stderr.strip()})")
        return done


@pytest.fixture
def closed(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_the_box_is_closed(closed: Box) -> None:
    package = Path(resprune.__file__).parent
    done = closed.python(PROBE, box.USER, package, closed.home, closed.scratch, closed.out)
    assert done.returncode == 0, done.stderr


@pytest.mark.exhaustive
def test_a_chain_of_commands_in_a_closed_box(closed: Box) -> None:
    out = closed.out
    lines = [
        f"prune demo --tol 1e-3 --samples 50 --out {out}",  # a mount: it can be filled, but not replaced
        f"check {out} --against demo --data demo --samples 50 --max-drop 50",
        f"finetune demo --samples 64 --steps 1 --batch-size 16 --workers 0 --out {out} --force",
        f"prune demo --tol 1e-3 --samples 50 --out {closed.home / 'out'}",
    ]
    done = closed.python(ALL, stdin="\n".join(lines))
    ends = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert ends == ["status 0"] * 3 + ["status 3"], done.stderr
    # Told before anything is computed.
    assert done.stdout.endswith("status 0\nstatus 3\n")
    refusal = f"resprune: {closed.home / 'out'}: cannot be written (Read-only file system)"
    assert done.stderr.splitlines()[-1] == refusal
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr.upper()
    files = {entry.name for entry in out.iterdir()}
    assert {"config.json", "model.safetensors", "last.pt"} <= files
    assert not [name for name in files if name.endswith(".draft")]
    assert list(closed.home.iterdir()) == []


def test_without_a_temporary_folder_it_says_so(closed: Box) -> None:
    done = closed.python(ALL, stdin="evaluate demo --samples 2", temporary=closed.home)
    assert (done.stdout, done.returncode) == ("status 3\n", 0)
    told = "resprune: no temporary folder can be written; set TMPDIR to one, or mount one at /tmp\n"
    assert done.stderr == told
