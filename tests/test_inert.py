"""Files that hold more than tensors: plain data as ever, stubs for classes, code only where it is asked for."""

from __future__ import annotations

import collections
import contextlib
import datetime
import os
import pickle
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from commands import assert_helpful
from safetensors.torch import save
from stored import Payload, legacy, packed, packed_legacy, tensorfile, torchscript, weights, zipped
from torch import nn

from resprune import checkpoint, formats, inert
from resprune.errors import CheckpointError, UnsafeCheckpointError, UsageError
from resprune.records import READ_SAFELY, Reading

INERT = Reading(inert=True)
UNSAFE = Reading(unsafe_pickle=True)
Writer = Callable[[object], bytes]
WRITERS: dict[str, Writer] = {"zip": zipped, "legacy": legacy}


@pytest.fixture(params=list(WRITERS))
def writer(request: pytest.FixtureRequest) -> Writer:
    return WRITERS[request.param]


class Settings(dict[str, int]):
    """As configuration libraries have them."""


class Names(list[str]):
    """Likewise."""


class Mark:
    """Holds a function of its module."""

    def __init__(self) -> None:
        self.call = zipped


class Small(nn.Module):
    """A module of a class that no library knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.ReLU(), nn.ModuleDict({"head": nn.Linear(4, 2)}), self.conv)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.arange(3.0), persistent=False)
        self.register_buffer("nothing", None)


def read(content: bytes, folder: Path, how: Reading = READ_SAFELY) -> tuple[Any, list[str]]:
    path, notes = folder / "net.pt", []
    path.write_bytes(content)
    return formats.read_torch(path, str(path), formats.kind_of(path, str(path)), how, notes), notes


# Without any flag


def test_plain_data_beside_weights_is_read(writer: Writer, tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, tzinfo=datetime.UTC)
    content = {
        "args": Namespace(data=Path("images"), lr=0.1),
        "lists": collections.defaultdict(list, {"loss": [1.0]}),
        "last": collections.deque([1, 2], maxlen=2),
        "best": np.float64(0.5),
        "steps": np.array(3, ">i4")[()],
        "good": np.bool_(True),
        "when": (moment, moment.date(), datetime.timedelta(1)),
        "torch": torch.__version__,
    }
    beside = {"config": SimpleNamespace(model="net"), "confusion": np.ones((2, 3))}
    loaded, notes = read(writer(content | beside), tmp_path)
    assert vars(loaded.pop("config")) == {"model": "net"}
    assert not hasattr(loaded.pop("confusion"), "shape")
    assert vars(loaded.pop("args")) == {"data": Path("images"), "lr": 0.1}
    assert list(loaded.pop("last")) == [1, 2]
    assert loaded == {key: value for key, value in content.items() if key not in {"args", "last"}}
    assert {type(loaded[key]) for key in ("best", "steps", "good")} == {float, int, bool}
    assert not notes


def test_storages_of_a_gpu_are_read_without_one(tmp_path: Path) -> None:
    stored = legacy(weights()).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert b"cuda:0" in stored
    loaded, _ = read(stored, tmp_path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())


def test_what_was_allowed_before_stays_allowed_and_nothing_else(tmp_path: Path) -> None:
    with torch.serialization.safe_globals([Namespace, Mark]):
        before = set(torch.serialization.get_safe_globals())
        read(zipped({"args": Namespace(), "mark": nn.ReLU()}), tmp_path, INERT)
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("code", ["O", "V8", "i4,i4", "f8" * 1000])
def test_numpy_types_of_objects_are_refused(code: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no plain number"):
        read(zipped({"a": Payload(np.dtype, code, False, True)}), tmp_path)


def test_paths_are_made_of_text_only(tmp_path: Path) -> None:
    content = Payload(PurePosixPath, PurePosixPath("a"))
    with pytest.raises(CheckpointError, match="a string is expected, got PurePosixPath"):
        read(zipped(content), tmp_path)


def test_a_refusal_names_the_class_and_the_way_on(writer: Writer, tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpointError) as caught:
        read(writer({"model": Small()}), tmp_path)
    assert_helpful(caught.value, UnsafeCheckpointError, tmp_path)
    assert "run or import test_inert.Small," in str(caught.value)
    assert f"resprune inspect {tmp_path / 'net.pt'} --inert" in str(caught.value)


# With stubs


@pytest.mark.parametrize("make", [Small, lambda: torchvision.models.resnet18(num_classes=3)])
def test_a_pickled_module_gives_its_state_dict(
    make: Callable[[], nn.Module], writer: Writer, tmp_path: Path
) -> None:
    network = make()
    loaded, notes = read(writer(network), tmp_path, INERT)
    expected = network.state_dict()
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert not any(tensor.requires_grad for tensor in loaded.values())
    assert len(notes) == 1
    assert notes[0].startswith("replaced by stubs that do nothing (--inert): ")
    assert "torch.nn.modules.conv.Conv2d" in notes[0]


def test_modules_in_dicts_give_their_state_dicts(writer: Writer, tmp_path: Path) -> None:
    network = Small()
    content = {"nets": {"model": nn.DataParallel(network)}, "epoch": 3, "optimiser": [nn.ReLU()]}
    loaded, _ = read(writer(content), tmp_path, INERT)
    assert list(loaded["nets"]["model"]) == [f"module.{name}" for name in network.state_dict()]
    assert loaded["epoch"] == 3


def test_a_file_with_foreign_classes_is_read_as_a_checkpoint(writer: Writer, tmp_path: Path) -> None:
    extra = {"cfg": Settings(depth=3), "names": Names(["cat"]), "mark": Mark(), "kind": nn.ReLU}
    (tmp_path / "net.pt").write_bytes(writer({"state_dict": weights(), **extra}))
    found = checkpoint.read(tmp_path / "net.pt", INERT)
    assert list(found.weights) == list(weights())
    assert any("test_inert.Settings" in note and "stored.zipped" in note for note in found.origin.notes)


def test_foreign_containers_keep_what_they_hold(writer: Writer, tmp_path: Path) -> None:
    loaded, _ = read(writer({"cfg": Settings(depth=3), "names": Names(["cat"])}), tmp_path, INERT)
    assert loaded == {"cfg": {"depth": 3}, "names": ["cat"]}


def test_modules_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Sequential())
    network[0]._modules["0"] = network
    with pytest.raises(CheckpointError, match="hold each other"):
        read(zipped({"model": network}), tmp_path, INERT)


def test_too_many_classes_are_refused(tmp_path: Path) -> None:
    code = b"".join(b"cevil\nC%d\n" % index for index in range(1000))
    with pytest.raises(UnsafeCheckpointError, match=r"evil\.C200"):
        read(packed(b"\x80\x02(" + code + b"t."), tmp_path, INERT)


# Code in a file


class Reducing:
    """Runs a command as it is unpickled, like the exploits that are about."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", str(self.canary)],), {"state": 1}


def _nested(canary: Path) -> Payload:
    """Get a function by its name, and call what came of it."""
    return Payload(getattr, Payload(__import__, "os"), "system")


PAYLOADS: dict[str, Callable[[Path], object]] = {
    "eval": lambda canary: Payload(eval, f"open({str(canary)!r}, 'w').close()"),
    "exec": lambda canary: Payload(exec, f"open({str(canary)!r}, 'w').close()"),
    "open": lambda canary: Payload(open, str(canary), "w"),
    "subprocess": lambda canary: Payload(subprocess.call, ["touch", str(canary)]),
    "reduce": Reducing,
    "import": _nested,
    "map": lambda canary: Payload(map, Path.touch, [canary]),
    "rename": lambda canary: Payload(Path.touch, canary),
    "torch": lambda canary: Payload(torch.save, 1, str(canary)),
    "load": lambda canary: Payload(pickle.loads, pickle.dumps(Payload(open, str(canary), "w"))),
}


@pytest.mark.parametrize("make", PAYLOADS.values(), ids=PAYLOADS)
def test_stubs_run_nothing(make: Callable[[Path], object], writer: Writer, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    loaded, notes = read(writer({"extra": make(canary), "state_dict": weights()}), tmp_path, INERT)
    assert list(loaded["state_dict"]) == list(weights())
    assert notes
    assert not canary.exists()


@pytest.mark.parametrize("how", [READ_SAFELY, INERT], ids=["safely", "inert"])
def test_what_torch_blocks_is_refused_with_stubs_too(how: Reading, writer: Writer, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(UnsafeCheckpointError, match=r"run or import posix\.system,") as caught:
        read(writer({"extra": Payload(os.system, f"touch {canary}"), **weights()}), tmp_path, how)
    assert "--inert" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("pack", [packed, packed_legacy])
def test_a_call_of_what_a_stub_gave_runs_nothing(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    canary = str(tmp_path / "canary").encode()
    argument = b"X%s%s" % (len(canary).to_bytes(4, "little"), canary)
    call = b"\x80\x02cbuiltins\ngetattr\ncpathlib\nPath\nX\x05\x00\x00\x00touch\x86R" + argument + b"\x85R."
    loaded, _ = read(pack(call), tmp_path, INERT)
    assert isinstance(loaded, inert.Inert)
    assert not (tmp_path / "canary").exists()


def test_a_class_of_old_files_is_never_imported(tmp_path: Path) -> None:
    """Legacy files look modules' classes up in a way of their own; what claims to be one is a stub too."""
    code = b"\x80\x02(X\x06\x00\x00\x00modulecposixpath\nisfile\nNNtQ)R."
    loaded, notes = read(packed_legacy(code), tmp_path, INERT)
    assert type(loaded).__name__ == "isfile"
    assert type(loaded) is not type(os.path.isfile)
    assert "posixpath.isfile" in notes[0]
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read(packed_legacy(code.replace(b"posixpath\nisfile", b"posix\nsystem")), tmp_path, INERT)


# Where the user asks for it


def test_the_files_own_code_is_run_where_asked(writer: Writer, tmp_path: Path) -> None:
    canary, network = tmp_path / "canary", Small()
    content = {"model": network, "extra": Payload(open, str(canary), "w"), "again": {"net": network}}
    loaded, notes = read(writer(content), tmp_path, UNSAFE)
    loaded["extra"].close()
    assert canary.exists()
    assert notes == ["the file's own code was run (--unsafe-pickle)"]
    for state in (loaded["model"], loaded["again"]["net"]):
        assert list(state) == list(network.state_dict())


def test_code_that_fails_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ModuleNotFoundError: No module named 'evil'") as caught:
        read(packed(b"\x80\x02cevil\nC\n."), tmp_path, UNSAFE)
    assert_helpful(caught.value, CheckpointError, tmp_path)


def test_a_scripted_network_gives_its_state_dict(tmp_path: Path) -> None:
    loaded, _ = read(torchscript(), tmp_path, UNSAFE)
    assert list(loaded) == ["weight", "bias"]


def test_code_is_run_or_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        read(zipped({}), tmp_path, Reading(inert=True, unsafe_pickle=True))


def test_nothing_falls_back_to_running_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k["weights_only"]) or load(*a, **k))
    for content in (zipped(Small()), legacy(Small()), zipped({"a": Payload(eval, "1")}), torchscript()):
        for how in (READ_SAFELY, INERT):
            with contextlib.suppress(CheckpointError):
                read(content, tmp_path, how)
    assert len(asked) > 8
    assert all(asked)


def test_a_checkpoint_is_read_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(zipped({"state_dict": weights(), "cfg": Settings(depth=3)}))
    found = checkpoint.read(tmp_path / "net.pt", UNSAFE)
    assert list(found.weights) == list(weights())
    assert "the file's own code was run (--unsafe-pickle)" in found.origin.notes


# Headers alone


def test_a_header_is_read_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(weights() | {"half": torch.ones(2, 3).half(), "one": torch.tensor(1)}))
    found = formats.read_safetensors(path, where="net", numbers=False)
    whole = formats.read_safetensors(path, where="net")
    assert found.keys() == whole.keys()
    for name, tensor in found.items():
        assert tensor.device.type == "meta"
        assert (tensor.shape, tensor.dtype) == (whole[name].shape, whole[name].dtype)


def test_a_header_alone_may_not_lie(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(tensorfile({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}))
    with pytest.raises(CheckpointError, match="0 bytes of numbers, expected 4000000000000"):
        formats.read_safetensors(path, where="net", numbers=False)
