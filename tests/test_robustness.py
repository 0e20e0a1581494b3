"""Commands where there is no network, no home, no memory or no room; and what stops them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import only_line, refusal, run
from conftest import ARCHITECTURES, make_chain
from torch import nn
from torch.utils.data import get_worker_info
from typer.main import get_command

from resprune import pipeline, trajectory
from resprune.cli.app import app
from resprune.data import TrainingImages, open_data
from resprune.memory import pass_over
from resprune.reading import silent

WATCH = """
import os, sys
allowed = os.environ["MAY_WRITE"].split(":")
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(2, f"NETWORK {event} {arguments}\\n".encode())
        os._exit(99)
    if event == "open":
        path, _, flags = arguments
        write = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        path, write = arguments[0], event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink")
    if write and isinstance(path, (str, bytes)):
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(tuple(allowed)) and not place.startswith("/dev/"):
            os.write(2, f"WRITE {event} {place}\\n".encode())
            os._exit(98)
sys.addaudithook(watch)
"""


ALL = """
import sys
from resprune.cli.app import app
for line in sys.stdin.read().splitlines():
    status = app(line.split("|"), standalone_mode=False)
    print(f"status {status or 0}")
"""


@pytest.mark.exhaustive
def test_no_network_no_home_and_nothing_written_but_the_output(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("watching", "scratch", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "watching" / "sitecustomize.py").write_text(WATCH)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watching"), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(tmp_path / "scratch"),
        "MAY_WRITE": f"{tmp_path / 'scratch'}:{tmp_path / 'results'}",
    }
    data, out = image_folder(), tmp_path / "results" / "out"
    elsewhere = tmp_path / "elsewhere"
    lines = [
        ("analyze", cifar_file, "--data", data),
        ("prune", cifar_file, "--depth", 4, "--data", data, "--out", out),
        ("evaluate", out, "--data", data),
        ("check", out, "--against", cifar_file, "--data", data, "--max-drop", 100, "--markdown", f"{out}.md"),
        ("finetune", cifar_file, "--data", data, "--steps", 1, "--batch-size", 8, "--out", f"{out}-tuned"),
        ("bench", cifar_file, "--rounds", 1),
        ("compare", out, cifar_file, "--data", data),
        ("export", out, "--format", "torch-export", "--out", f"{out}.pt2"),
        ("inspect", cifar_file, "--check"),
        ("env", "--json"),
        ("prune", cifar_file, "--depth", 4, "--out", elsewhere),  # to see that the watch sees
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALL],
        input="\n".join("|".join(map(str, line)) for line in lines),
        env=environment,
        cwd=tmp_path / "scratch",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("status 0") == len(lines) - 1, done.stderr
    assert done.returncode == 98
    assert done.stderr.splitlines()[-1].startswith(f"WRITE os.mkdir {tmp_path}/.resprune-")
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["out", "out-tuned", "out.md", "out.pt2"]


class Heavy(nn.Module):
    """A stem that has memory for few images."""

    def __init__(self, stem: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.stem, self.most, self.error = stem, most, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise self.error
        return self.stem(x)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_pass_without_memory_is_made_again_on_smaller_batches(
    error: Exception, image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder()
    images = open_data(data, chain.preprocessing, chain.classes, batch_size=16)
    seen: list[int] = []
    heavy = replace(chain, stem=Heavy(chain.stem, 5, error))
    measured = pass_over(
        images,
        lambda batches, on_batch: trajectory.measure(heavy, batches, on_batch=seen.append),
        silent,
        "analyze",
    )
    expected = trajectory.measure(chain, replace(images, batch_size=4))
    assert measured == expected
    assert seen == [4] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "analyze: out of memory with batches of 16, trying 8",
        "analyze: out of memory with batches of 8, trying 4",
    ]
    with pytest.raises(type(error)):
        pipeline.evaluate(replace(chain, stem=Heavy(chain.stem, 0, error)), data)
    assert caplog.records[-1].getMessage() == "evaluate: out of memory with batches of 2, trying 1"


def test_another_error_of_a_pass_is_no_reason_to_try_again(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    heavy = replace(chain, stem=Heavy(chain.stem, 0, RuntimeError("mat1 and mat2 shapes")))
    with pytest.raises(RuntimeError, match="mat1"):
        pipeline.evaluate(heavy, image_folder())


def test_no_memory_for_a_single_image_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OUT_OF_MEMORY[1]

    monkeypatch.setattr(trajectory, "measure", fail)
    line = refusal(3, "analyze", "demo", "--samples", 2, "--batch-size", 1)
    assert line == "resprune: out of memory; lower --batch-size, or use another --device"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_process_that_read_images_and_died_is_one_line(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingImages.__getitem__

    def killed(images: TrainingImages, index: tuple[int, int]) -> tuple[torch.Tensor, int]:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory ends
        return real(images, index)

    monkeypatch.setattr(TrainingImages, "__getitem__", killed)
    words = ("finetune", cifar_file, "--data", image_folder(), "--steps", 1, "--batch-size", 8, "--workers", 1)
    done = run(*words, "--out", tmp_path / "out")
    told = "resprune: a process that read images has ended (out of memory?); lower --workers"
    assert (done.exit_code, done.stderr.splitlines()[1:]) == (3, [told])


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Let files have so many bytes only, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [10_000, 1])
def test_a_full_disk_is_told_and_leaves_nothing(size: int, cifar_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "out"
    with no_file_beyond(size):
        line = refusal(3, "prune", cifar_file, "--depth", 4, "--out", out, "--json")
    assert line.startswith(f"resprune: {out}: cannot be written (")
    assert "File too large" in line
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_and_an_export(cifar_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    with no_file_beyond(10_000):
        line = refusal(3, "export", cifar_file, "--format", "torch-export", "--out", file)
    assert line == f"resprune: {file}: cannot be written (File too large)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["resnet.pth"]


PRINT_AND_EXIT = """
import sys, typer
from resprune.cli import shell
try:
    with shell.command(False):
        shell.show("x" * 99999)
except typer.Exit as done:
    sys.exit(done.exit_code)
"""


def printed(code: str, stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("option", ["", "--help", "--version"])
def test_a_result_that_cannot_be_written_is_told_in_one_line(option: str) -> None:
    code = f"from resprune.cli.app import app\napp(['{option}'])" if option else PRINT_AND_EXIT
    with Path("/dev/full").open("w") as full:
        done = printed(code, full.fileno())
    assert done.returncode == 3
    assert "cannot be written (No space left on device)" in only_line(done.stderr)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = printed(PRINT_AND_EXIT, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_every_command_that_computes_takes_threads() -> None:
    commands = vars(get_command(app))["commands"]
    without = {name for name, one in commands.items() if "threads" not in {param.name for param in one.params}}
    assert without <= {"env", "families", "report", "schema"}
