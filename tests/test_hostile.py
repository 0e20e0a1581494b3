"""Files that are no usable checkpoint end in one line, and nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import assert_helpful, only_line, refusal, run
from conftest import ARCHITECTURES, make_chain
from safetensors.torch import save
from stored import (
    Payload,
    Weights,
    archive,
    cast,
    filled,
    half,
    holding_itself,
    legacy,
    packed,
    packed_legacy,
    prefixed,
    torchscript,
    weights,
    without,
    zipped,
)
from torch import Tensor, nn

from resprune import pipeline
from resprune.errors import ArchitectureError, CheckpointError, ResPruneError, UnsafeCheckpointError

COMMAND = [sys.executable, "-W", "error", "-c", "from resprune.cli import main; main()"]
Case = tuple[Callable[[], bytes], type[ResPruneError], str]
HUGE = (1 << 62).to_bytes(8, "little") + b'{"a": 1}'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
OPTIMISER = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}, "epoch": 3}
CUT = "damaged, cut off, or not written by torch.save"
NOT_FLOAT = "where floating-point weights of 16 to 64 bits are expected"

NO_CHECKPOINT: dict[str, Case] = {
    "empty": (lambda: b"", CheckpointError, "the file is empty"),
    "junk": (lambda: random.Random(0).randbytes(4000), CheckpointError, "neither a torch nor a safetensors"),
    "pickled junk": (lambda: b"\x80\x02" + random.Random(0).randbytes(400), CheckpointError, CUT),
    "cut zip": (lambda: half(zipped(weights())), CheckpointError, f"{CUT} .torch zip"),
    "cut legacy file": (lambda: half(legacy(weights())), CheckpointError, f"{CUT} .torch legacy"),
    "cut safetensors": (lambda: half(save(weights())), CheckpointError, "cut off .safetensors"),
    "cut safetensors header": (lambda: save(weights())[:40], CheckpointError, "cut off .safetensors"),
    "huge safetensors header": (lambda: HUGE, CheckpointError, "safetensors: the header is too large"),
    "git lfs pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\n",
        CheckpointError,
        "git lfs pull",
    ),
    "web page": (lambda: b"\n<!DOCTYPE html><html></html>", CheckpointError, "this is a web page"),
    "web page with a mark": (lambda: b"\xef\xbb\xbf<!doctype html>", CheckpointError, "this is a web page"),
    "zip of something else": (lambda: archive("readme.txt"), CheckpointError, f"{CUT} .torch zip"),
    "plain pickle": (lambda: pickle.dumps({"epoch": 3}, protocol=4), CheckpointError, CUT),
    "list": (lambda: zipped([1, 2]), CheckpointError, "holds a list, not a state dict"),
    "tensor": (lambda: zipped(torch.ones(3)), CheckpointError, "holds a Tensor, not a state dict"),
    "nothing": (lambda: legacy(None), CheckpointError, "holds a NoneType, not a state dict"),
    "optimiser only": (lambda: zipped(OPTIMISER), CheckpointError, "keys: optimizer, epoch"),
    "empty wrapper": (lambda: zipped({"state_dict": {}}), CheckpointError, "no weights found .keys: none"),
    "dict that holds itself": (
        lambda: zipped(holding_itself()),
        CheckpointError,
        "no weights .* model",
    ),
    "one tensor many times": (
        lambda: zipped(dict.fromkeys(map(str, range(1000)), torch.ones(10**5).half())),
        CheckpointError,
        "200,000,000 bytes of tensors in 200,000 stored ones",
    ),
    "deep tuple": (
        lambda: packed(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."),
        CheckpointError,
        "tuples of 101 levels",
    ),
    "deep tuple, legacy": (
        lambda: packed_legacy(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."),
        CheckpointError,
        "tuples of 101 levels",
    ),
    "wide tuple": (
        lambda: packed(b"\x80\x02})" + b"q\x00h\x00h\x00\x87" * 30 + b"K\x01s."),
        CheckpointError,
        "parts",
    ),
    "module": (
        lambda: zipped(nn.Linear(2, 2)),
        UnsafeCheckpointError,
        "nn.modules.linear.Linear,",
    ),
    "legacy module": (lambda: legacy({"model": nn.ReLU()}), UnsafeCheckpointError, "activation.ReLU,"),
    "torchscript": (torchscript, UnsafeCheckpointError, "TorchScript"),
    "another network": (
        lambda: zipped(nn.Sequential(nn.Linear(3, 3)).state_dict()),
        ArchitectureError,
        "no residual network that resprune knows: 2 tensors, first 0.weight, 0.bias",
    ),
}

UNUSABLE_WEIGHTS: dict[str, tuple[Callable[[], Weights], str]] = {
    "missing key": (lambda: without("layer1.1.bn1.bias"), r'Missing key.*"layer1\.1\.bn1\.bias"'),
    "extra key": (lambda: weights() | {"aux.weight": torch.ones(2)}, r'Unexpected key.*"aux\.weight"'),
    "wrong shape": (
        lambda: weights() | {"layer2.1.conv2.weight": torch.ones(16, 16, 5, 5)},
        r"mismatch for layer2\.1\.conv2\.weight.*16, 16, 5, 5.*16, 16, 3, 3",
    ),
    "vector for a stem": (lambda: weights() | {"conv1.weight": torch.ones(3)}, "no residual network"),
    "nan": (lambda: filled("layer1.1.conv1.weight", float("nan")), r"layer1\.1\.conv1\.weight has 1 of .*NaN"),
    "infinity": (
        lambda: filled("bn1.running_var", float("-inf")),
        r"bn1\.running_var has 1 of .* values NaN or infinite",
    ),
    "too large": (
        lambda: cast(lambda t: t.double() + 1e60),
        "conv1.weight has 216 of 216 values .*infinite in float32",
    ),
    "negative variance": (
        lambda: filled("layer3.0.bn2.running_var", -1.0),
        "running_var holds negative variances",
    ),
    "integers": (lambda: cast(lambda t: t.to(torch.int8)), f"conv1.weight holds int8 {NOT_FLOAT}"),
    "complex": (lambda: cast(lambda t: t.to(torch.complex64)), f"conv1.weight holds complex64 {NOT_FLOAT}"),
    "eight bits": (
        lambda: cast(lambda t: t.to(torch.float8_e5m2)),
        f"conv1.weight holds float8_e5m2 {NOT_FLOAT}",
    ),
    "sparse": (lambda: cast(Tensor.to_sparse), "conv1.weight is stored as torch.sparse_coo"),
    "no numbers": (lambda: cast(lambda t: t.to("meta")), "conv1.weight has a shape and no numbers"),
    "a count of many": (
        lambda: weights() | {"bn1.num_batches_tracked": torch.ones(1, dtype=torch.int64).expand(10**12)},
        "bn1.num_batches_tracked holds no single count",
    ),
    "a sparse count": (
        lambda: weights() | {"bn1.num_batches_tracked": torch.tensor([1]).to_sparse()},
        "bn1.num_batches_tracked holds no single count",
    ),
    "no classes": (lambda: weights() | {"linear.weight": torch.ones(0, 32)}, r"linear.weight has no values"),
    "terabytes from one number": (
        lambda: weights() | {"conv1.weight": torch.ones(1).expand(10**12)},
        "conv1.weight has the shape .1000000000000,. and only 1 stored",
    ),
}

CASES: dict[str, Case] = NO_CHECKPOINT | {
    name: (lambda make=make: zipped(make()), ArchitectureError, match)
    for name, (make, match) in UNUSABLE_WEIGHTS.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_unusable_file_is_refused(case: Case, tmp_path: Path) -> None:
    content, kind, match = case
    path = tmp_path / "net.pt"
    path.write_bytes(content())
    with pytest.raises(kind, match=match) as caught:
        pipeline.load(path)
    assert_helpful(caught.value, kind, path)
    assert str(caught.value) in refusal(3, "inspect", path)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("change", ["drop", "scalar"])
def test_a_tensor_that_tells_the_architecture_is_missing_or_a_scalar(
    name: str, change: str, tmp_path: Path
) -> None:
    state = dict(make_chain(ARCHITECTURES[name]).network.state_dict())
    wide = next(
        key
        for key in state
        if re.search(r"\b(0|b1)\.(conv2|conv2.conv|f\.c\.0|residual_function\.3)\.weight", key)
    )
    if change == "drop":
        del state[wide]
    else:
        last = next(key for key in ("linear.weight", "fc.weight", "head.fc.weight") if key in state)
        state[last] = torch.tensor(1.0)
    torch.save(state, tmp_path / "net.pt")
    assert str(tmp_path) in refusal(3, "inspect", tmp_path / "net.pt")


def test_a_small_file_cannot_ask_for_a_huge_network(tmp_path: Path) -> None:
    torch.save(weights() | {"layer3.0.conv2.weight": torch.ones(10**6, 1, 1, 1)}, tmp_path / "net.pt")
    assert "layer3.0.conv" in refusal(3, "inspect", tmp_path / "net.pt")


def test_a_place_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    expected = {
        "missing.pt": "no such file or folder; give a checkpoint",
        "folder": "the folder holds no model.safetensors (found: notes.txt); name the weights file itself",
        "folder/notes.txt/net.pt": "no such file or folder; give a checkpoint",
        "loop": "cannot be read (Too many levels of symbolic links); check",
        "dangling": "cannot be read (No such file or directory); check",
        "x" * 300: "cannot be read (File name too long); check",
    }
    for name, message in expected.items():
        assert f"{tmp_path / name}: {message}" in refusal(3, "inspect", tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(cifar_file: Path) -> None:
    cifar_file.chmod(0)
    assert "cannot be read (Permission denied); check" in refusal(3, "inspect", cifar_file)


def test_names_cannot_break_the_line_or_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[2J.pt"
    torch.save({"state_dict": {"\x1b[31m\n": 1}}, path)
    assert r"a\nb\x1b[2J.pt: no weights found (keys: \x1b[31m\n)" in refusal(3, "inspect", path)


def test_names_are_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": weights(), "[/bold]": 1, "\x1b[2J": 2}, "[red]net.pt")
    result = run("inspect", "[red]net.pt")
    assert result.exit_code == 0
    assert "checkpoint    [red]net.pt" in result.stdout
    assert r"dropped beside state_dict: [/bold], \x1b[2J" in " ".join(result.stdout.split())


# Code in a file


PAYLOADS: dict[str, Callable[[Path], Payload]] = {
    "posix.system": lambda path: Payload(os.system, f"touch {path}"),
    "eval": lambda path: Payload(eval, f"open({str(path)!r}, 'w').close()"),
    "io.open": lambda path: Payload(open, str(path), "w"),
}
WRITERS: dict[str, Callable[[object], bytes]] = {
    "zip": zipped,
    "legacy": legacy,
    "pickle": lambda content: pickle.dumps(content, protocol=2),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("called", PAYLOADS)
def test_a_payload_is_never_run(writer: Callable[[object], bytes], called: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "net.pt"
    path.write_bytes(writer({"extra": PAYLOADS[called](canary), "state_dict": weights()}))
    with pytest.raises(UnsafeCheckpointError, match=f"run or import {called}, so it was not read") as caught:
        pipeline.load(path)
    assert_helpful(caught.value, UnsafeCheckpointError, path)
    assert str(caught.value) in refusal(3, "inspect", path)
    assert not canary.exists()


def test_the_payload_above_is_live(tmp_path: Path) -> None:
    """Guards the test above: read without protection, the same file does create the other."""
    canary, path = tmp_path / "canary", tmp_path / "net.pt"
    path.write_bytes(zipped(PAYLOADS["posix.system"](canary)))
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_fresh_process_says_one_line_and_runs_nothing(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "net.pt"
    path.write_bytes(legacy(PAYLOADS["posix.system"](canary)))
    done = subprocess.run([*COMMAND, "inspect", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "posix.system" in only_line(done.stderr)
    assert not done.stdout
    assert not canary.exists()


# Files that are unusual and must work


UNUSUAL: dict[str, tuple[Callable[[], object], str]] = {
    "half precision": (lambda: cast(Tensor.half), "converted to float32 from float16"),
    "bfloat16": (lambda: cast(Tensor.bfloat16), "converted to float32 from bfloat16"),
    "double precision": (lambda: cast(Tensor.double), "converted to float32 from float64"),
    "data parallel": (lambda: prefixed("module."), "stripped the prefix module."),
    "lightning": (lambda: {"state_dict": prefixed("model.")}, "stripped the prefix model."),
    "compiled": (lambda: prefixed("_orig_mod."), "stripped the prefix _orig_mod."),
    "both": (lambda: prefixed("module._orig_mod."), "stripped the prefix module._orig_mod."),
    "nested": (lambda: {"model": {"state_dict": weights()}, "epoch": 3}, "unwrapped model.state_dict"),
    "noted": (lambda: {"net": weights(), "epoch": 3, "args": []}, "beside net: epoch, args"),
    # torch's own ImageNet example saves its best accuracy as a tensor.
    "tensor beside": (
        lambda: {"state_dict": weights(), "best": torch.ones(1)},
        "dropped beside state_dict: best",
    ),
    "namespace beside": (lambda: {"args": Namespace(lr=0.1), **weights()}, "dropped, no tensors: args"),
    "numbers beside": (lambda: weights() | {"epoch": 3}, "dropped, no tensors: epoch"),
}


@pytest.mark.parametrize("writer", [zipped, legacy])
@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_file_is_read_and_noted(
    case: str, writer: Callable[[object], bytes], tmp_path: Path
) -> None:
    make, note = UNUSUAL[case]
    path = tmp_path / "net.pt"
    path.write_bytes(writer(make()))
    chain = pipeline.load(path)
    assert any(line.endswith(note) for line in chain.origin.notes)
    tolerance = 0.02 if case in {"half precision", "bfloat16"} else 0.0
    torch.testing.assert_close(dict(chain.network.state_dict()), weights(), rtol=tolerance, atol=tolerance)
    assert note in " ".join(run("inspect", path).stdout.split())


def test_a_file_of_before_norms_counted_batches_is_read(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in weights().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "net.pt")
    counters = set(weights()) - set(state)
    assert counters
    network = pipeline.load(tmp_path / "net.pt").network
    assert all(network.state_dict()[name] == 0 for name in counters)


def test_what_a_file_claims_cannot_steer_the_terminal(tmp_path: Path) -> None:
    torch.save({"state_dict": weights(), "arch": "\x1b[31m\n"}, tmp_path / "net.pt")
    assert r"names \x1b[31m\n, which" in " ".join(pipeline.load(tmp_path / "net.pt").origin.notes)
