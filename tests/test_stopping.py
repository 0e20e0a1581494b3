"""Ctrl-C and SIGTERM end a command with its status, whatever swallows them on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import refusal, run
from training import coloured, tiny_chain

import resprune
from resprune import pipeline, placing
from resprune.cli import stopping
from resprune.cli.stopping import Terminated, stoppable
from resprune.exporting import folder as output
from resprune.records import Saved

STOPS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    }
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(stopping, "AGAIN", 0.05)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait(seconds: float = 10.0) -> None:
    """Let signals come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def stopped(command: Callable[[], object]) -> BaseException | None:
    """Run a command that is to be stopped; returns the stop."""
    try:
        with stoppable():
            command()
    except (KeyboardInterrupt, Terminated) as stop:
        return stop
    return None


class Dropping:
    """Raises where Python drops what is raised."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("number", "kind"), STOPS)
def test_a_stop_that_is_swallowed_is_made_again(
    number: signal.Signals, kind: type[BaseException], dropped: bool
) -> None:
    def command() -> None:
        with suppress(BaseException):
            Dropping(number) if dropped else signal.raise_signal(number)
        wait()

    assert type(stopped(command)) is kind


@pytest.mark.parametrize(("number", "kind"), STOPS)
def test_tidying_up_is_not_disturbed(number: signal.Signals, kind: type[BaseException]) -> None:
    tidied = []

    def command() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)
            wait(0.3)
            tidied.append(number)

    assert type(stopped(command)) is kind
    assert tidied
    assert signal.getsignal(number) is signal.SIG_IGN  # nor are the last words


def test_what_fails_because_of_a_stop_is_the_stop() -> None:
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            raise RuntimeError("DataLoader worker is killed by signal: Terminated") from None

    stop = stopped(command)
    assert isinstance(stop, Terminated)
    assert stop.code == 143


def test_handlers_come_back_and_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(ValueError, match="another"), stoppable():
        raise ValueError("another")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_of_finetune_that_is_stopped_leaves_what_resuming_needs(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """All its processes are stopped at once, as a terminal does; it forks workers in every epoch."""
    images, checkpoint, out = coloured(tmp_path / "images", each=8), tmp_path / "tiny", tmp_path / "out"
    checkpoint.mkdir()
    output.write_network(tiny_chain(), checkpoint)
    words = ["finetune", checkpoint, "--data", images, "--epochs", 9999, "--batch-size", 8, "--gamma", 0.1]
    command = [sys.executable, "-m", "resprune", *map(str, words), "--out", str(out), "--workers", "1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    told = [process.stderr.readline() for _ in range(3)]
    assert told[-1].startswith("epoch 2/9999"), told
    os.killpg(process.pid, number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == status, rest
    word = "interrupted" if status == 130 else "terminated"
    *lines, last = rest.splitlines()
    assert last == f"resprune: {word}, repeat the command with --resume to go on in {out}"
    assert all(line.startswith("epoch ") for line in lines), rest
    files = {"README.md", "config.json", "exits.safetensors", "last.pt", "metrics.jsonl", "model.safetensors"}
    assert {entry.name for entry in out.iterdir()} - {"report.json"} <= files
    assert "last.pt" in {entry.name for entry in out.iterdir()}
    assert {entry.name for entry in tmp_path.iterdir()} == {"images", "tiny", "out"}
    # Another run is refused there; this one would go on.
    assert "epochs 1 instead of 9999" in refusal(2, *words[:5], 1, *words[6:], "--out", out, "--resume")


HANGING = """
import atexit, os, signal, sys, threading, time
from multiprocessing import get_context

from resprune import cli, machine
from resprune.cli import stopping

def stop():
    get_context("fork").Process(target=time.sleep, args=[99]).start()  # has our stderr
    atexit.register(wait_for_ever)  # last, so it is first
    signal.raise_signal(number)

def wait_for_ever():
    print("waiting", file=sys.stderr, flush=True)
    threading.Event().wait()

machine.environment = stop
stopping.PATIENCE = 0.2
number = int(sys.argv.pop())
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_was_stopped_ends_though_something_waits_at_its_end(number: signal.Signals) -> None:
    command = [sys.executable, "-c", HANGING, "env", str(int(number))]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 128 + number, done.stderr
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert done.stderr.splitlines() == [f"resprune: {word}, nothing was written", "waiting"]


LOST = """
import os, socket, time
from multiprocessing import resource_sharer
from resprune.data import training

def leave_while_a_tensor_is_handed_over():
    address, _ = resource_sharer.DupFd(os.dup(1))._id
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(address)
        time.sleep(0.2)  # its challenge is there by now, and is not read
    time.sleep(0.2)

leave_while_a_tensor_is_handed_over()
training._leave_the_word_to_the_main_process(0)
leave_while_a_tensor_is_handed_over()
"""


def test_a_worker_says_nothing_of_a_main_process_that_has_gone() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=True)
    assert done.stderr.count("ConnectionResetError") == 1, done.stderr  # before it was told


def test_a_healing_that_is_stopped_leaves_nothing(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resprune.training import loop

    images, out = coloured(tmp_path / "images", each=8), tmp_path / "results" / "out"
    checkpoint = tmp_path / "tiny"
    checkpoint.mkdir()
    output.write_network(tiny_chain(), checkpoint)
    taken = []

    def step(*arguments: object) -> None:
        taken.append(1)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Learner, "step", step)
    done = run("prune", checkpoint, "--depth", 2, "--data", images, "--heal", 1, "--out", out)
    assert (done.exit_code, taken) == (143, [1])
    assert done.stderr.splitlines()[-1] == "resprune: terminated, nothing was written"
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("again", [False, True])
def test_a_stop_after_the_folder_is_there_says_so(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, again: bool
) -> None:
    out = tmp_path / "out"
    words = ["prune", cifar_file, "--depth", 5, "--out", out, *(["--force"] if again else [])]
    if again:
        assert run(*words).exit_code == 0
    save = pipeline.save

    def and_stop(*arguments: Any, **options: Any) -> Saved:
        saved = save(*arguments, **options)
        signal.raise_signal(number)
        return saved

    monkeypatch.setattr(pipeline, "save", and_stop)
    done = run(*words)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert done.exit_code == 128 + number
    assert done.stderr.splitlines()[-1] == f"resprune: {word}, written already: {out}"
    assert resprune.load(out).depth == 5


def test_a_stop_between_two_files_names_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = tmp_path / "a.csv", tmp_path / "a.parquet"
    write = placing.write_bytes

    def stop(path: Path, content: bytes) -> None:
        if path == other:
            signal.raise_signal(signal.SIGTERM)
        write(path, content)

    monkeypatch.setattr(placing, "write_bytes", stop)
    done = run("analyze", "demo", "--samples", 32, "--csv", table, "--parquet", other)
    assert done.exit_code == 143
    assert done.stderr.splitlines()[-1] == f"resprune: terminated, written already: {table}"
    assert list(tmp_path.iterdir()) == [table]
