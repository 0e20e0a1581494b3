"""Files and folders that must end in one clear line or a network; as a command, reads those it is given."""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from stored import (
    Payload,
    archive,
    cast,
    filled,
    flipped,
    holding_itself,
    laughing,
    legacy,
    packed,
    packed_legacy,
    rezipped,
    tensorfile,
    weights,
    zipped,
)
from torch import Tensor, _utils

FINE = "loaded"
"""Expected of files that are unusual and in order."""
EITHER = "loaded|damaged|"
"""Expected of bits that may or may not matter."""

_STATUS = Path("/proc/self/status")

Case = tuple[Callable[[Path], Any], str]

_WRITERS = {"zip": zipped, "legacy": legacy, "safetensors": save}
_LENGTH = 2_000_017
"""Of a tensor; a number that is nowhere else in a file."""
_ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def _write(make: Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(make())


def _both(content: Callable[[], object]) -> list[tuple[str, Callable[[], bytes]]]:
    return [("zip", lambda: zipped(content())), ("legacy", lambda: legacy(content()))]


def _flat() -> dict[str, Tensor]:
    """Return weights that are all views of one storage."""
    state = weights()
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    whole = torch.cat([tensor.flatten() for tensor in floats.values()])
    pieces = whole.split([tensor.numel() for tensor in floats.values()])
    return state | {name: piece.view(t.shape) for (name, t), piece in zip(floats.items(), pieces, strict=True)}


def _pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        return opened.read("archive/data.pkl")


def _long() -> dict[str, Tensor]:
    return {"conv1.weight": torch.zeros(_LENGTH, dtype=torch.uint8)}


def _claiming(content: bytes) -> bytes:
    """Make `_long` say that it is a thousand times as long."""
    return content.replace(_LENGTH.to_bytes(4, "little"), (2_000_000_011).to_bytes(4, "little"))


def _quantised() -> dict[str, Tensor]:
    with warnings.catch_warnings(action="ignore"):  # torch deprecates what users still have
        return cast(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8))


def _folder(path: Path, **files: bytes) -> None:
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)


def _pipe_in_a_folder(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "model.safetensors")


def _link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


def _loop(path: Path) -> None:
    path.symlink_to(path.with_suffix(".back"))
    path.with_suffix(".back").symlink_to(path)


def _socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # sockets' names must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    os.chdir(folder)


def _mislabelled(path: Path) -> None:
    path.write_bytes(zipped(weights()))


_DAMAGED: dict[str, Case] = {
    **{
        f"bit {seed} of {kind}": (
            _write(lambda w=writer, s=seed: flipped(w(weights()), s, None if s % 2 else 3000)),
            EITHER,
        )
        for kind, writer in _WRITERS.items()
        for seed in range(6)
    },
    **{
        f"{kind} cut at {share}": (
            _write(lambda w=writer, s=share: w(weights())[: int(s * len(w(weights())))]),
            "damaged|cut off",
        )
        for kind, writer in _WRITERS.items()
        for share in (0.01, 0.5, 0.9999)
    },
}

_HEADERS: dict[str, tuple[object, int, str]] = {
    "a name twice": ('{"a": %s, "a": %s}' % ((json.dumps(_ONE),) * 2), 4, "there twice"),
    "a key twice": (
        '{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}',
        4,
        "twice",
    ),
    "terabytes": ({"a": _ONE | {"shape": [10**12]}}, 4, "lies at 0 to 4"),
    "product beyond 64 bits": ({"a": _ONE | {"shape": [2**62, 2**62]}}, 4, "lies at 0 to 4"),
    "terabytes to come": (
        {"a": _ONE | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        4,
        "4 bytes of numbers, expected 4000000000000",
    ),
    "zeros beside huge sizes": (
        {"a": _ONE | {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}},
        0,
        "no values",
    ),
    "negative shape": ({"a": _ONE | {"shape": [-1]}}, 4, "has the shape"),
    "fractions": ({"a": _ONE | {"shape": [1.0]}}, 4, "has the shape"),
    "words for a shape": ({"a": _ONE | {"shape": "one"}}, 4, "safetensors"),
    "unknown type": ({"a": _ONE | {"dtype": "F4"}}, 4, "safetensors"),
    "hole": ({"a": _ONE, "b": _ONE | {"data_offsets": [8, 12]}}, 12, "expected from 4"),
    "overlap": ({"a": _ONE, "b": _ONE}, 4, "expected from 4"),
    "numbers left over": ({"a": _ONE}, 8, "bytes of numbers"),
    "numbers missing": ({"a": _ONE}, 3, "bytes of numbers|lies at"),
    "list": ('{"a": [1, 2]}', 0, "safetensors"),
    "no json": ("{nothing", 0, "safetensors"),
    "deep json": ('{"a": ' + "[" * 10**6, 0, "safetensors"),
    "a million tensors": ({f"layer{i}.weight": _ONE for i in range(10**6)}, 4, "header is too large"),
    "120,000 tensors": (
        {f"w{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(120_000)},
        0,
        "120,000 tensors",
    ),
}

_TYPES: dict[str, tuple[Callable[[], object], str]] = {
    "half precision": (lambda: cast(Tensor.half), FINE),
    "bfloat16": (lambda: cast(Tensor.bfloat16), FINE),
    "double precision": (lambda: cast(Tensor.double), FINE),
    "one storage": (_flat, FINE),
    "shared tensor": (lambda: weights() | {"bn1.bias": weights()["bn1.bias"].expand_as(torch.ones(8))}, FINE),
    "not contiguous": (lambda: cast(lambda t: t.mT.contiguous().mT if t.ndim > 1 else t), FINE),
    "integers": (lambda: cast(lambda t: t.to(torch.int32)), "int32"),
    "truth values": (lambda: cast(lambda t: t.to(torch.bool)), "bool"),
    "float8": (lambda: cast(lambda t: t.to(torch.float8_e4m3fn)), "float8_e4m3fn|no attribute 'dtype'"),
    "complex": (lambda: cast(lambda t: t.to(torch.complex64)), "complex64"),
    "quantised": (_quantised, "qint8"),
    "sparse": (lambda: cast(Tensor.to_sparse), "sparse_coo"),
    "no numbers": (lambda: cast(lambda t: t.to("meta")), "no numbers"),
    "nan": (lambda: filled("conv1.weight", float("nan")), "NaN"),
    "infinity": (lambda: filled("linear.bias", float("inf")), "infinite"),
    "expanded": (lambda: weights() | {"conv1.weight": torch.ones(1).expand(10**12)}, "1 stored values"),
    "numbers for names": (
        lambda: {1: torch.ones(2), (2, 3): torch.ones(2), None: 3},
        "no residual network|no weights",
    ),
    "bytes for names": (lambda: {b"\xff\n": torch.ones(2)}, "no residual network"),
    "itself": (holding_itself, "no weights"),
    "200,000 keys": (lambda: {str(i): i for i in range(200_000)}, "no weights"),
    "200,000 tensors": (
        lambda: dict.fromkeys(map(str, range(200_000)), torch.ones(1)),
        "more than 100,000 tensors",
    ),
    "memory by a call": (lambda: {"a": Payload(bytearray, 10**11)}, "calls bytearray"),
    "memory by a tensor": (lambda: {"a": Payload(torch.FloatTensor, 10**10)}, "claims|damaged"),
    "memory by a copy": (
        lambda: {
            "a": Payload(
                _utils._rebuild_device_tensor_from_cpu_tensor,
                torch.ones(1).expand(10**11),
                torch.float64,
                "cpu",
                False,
            )
        },
        "calls _rebuild_device_tensor",
    ),
}

_PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep list": (lambda: b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "holds a list"),
    "deep tuple": (lambda: b"\x80\x02)" + b"\x85" * 10**5 + b".", "tuples of 101 levels"),
    "deep dict": (
        lambda: b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 10**5 + b"}" + b"s" * 10**5 + b".",
        "no weights",
    ),
    "billions of lists": (lambda: b"\x80\x02" + laughing(30) + b".", "holds a list"),
    "billions beside": (
        lambda: b"\x80\x02(" + laughing(30) + b"tq\x64}X\x01\x00\x00\x00ah\x64s.",
        "no weights",
    ),
    "call of a call": (lambda: b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n\x86R.", "getattr"),
    "jump": (lambda: b"\x80\x02h\x05.", "damaged"),
    "long text": (lambda: b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged|holds a str"),
    "nothing at all": (lambda: b"", "damaged"),
}

_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (
        lambda: rezipped(zipped(weights()), zipfile.ZIP_DEFLATED, {"archive/data/x": bytes(50_000_000)}),
        "unpacks to",
    ),
    "compressed": (lambda: rezipped(zipped(weights()), zipfile.ZIP_DEFLATED), "is compressed|unpacks to"),
    "way out": (lambda: rezipped(zipped(weights()), 0, {"archive/../../x": b"x"}), "outside"),
    "way out for windows": (lambda: rezipped(zipped(weights()), 0, {"archive\\..\\x": b"x"}), "outside"),
    "absolute": (lambda: rezipped(zipped(weights()), 0, {"/etc/x": b"x"}), "outside"),
    "other zip": (lambda: archive("word/document.xml"), "damaged"),
    "no storages": (lambda: packed(_pickle(zipped(weights()))), "damaged"),
    "huge claim": (lambda: packed(_claiming(_pickle(zipped(_long()))), **{"data/0": bytes(64)}), "damaged"),
    "huge claim of old": (lambda: _claiming(legacy(_long()))[:-_LENGTH], "damaged"),
    "120,000 entries": (lambda: packed(b"\x80\x02N.", **{f"data/{i}": b"" for i in range(120_000)}), "entries"),
}

_PLACES: dict[str, Case] = {
    "folder": (lambda path: path.mkdir(), "holds no model.safetensors"),
    "folder with a pipe": (_pipe_in_a_folder, "holds no model.safetensors"),
    "folder of junk": (
        lambda path: _folder(path, model__safetensors=b"junk"),
        "neither a torch nor a safetensors",
    ),
    "folder with a deep config": (
        lambda path: _folder(path, model__safetensors=save(weights()), config__json=b"[" * 10**5),
        "config is damaged",
    ),
    "pipe": (os.mkfifo, "a pipe"),
    "link to a pipe": (_link_to_a_pipe, "a pipe"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "link to silence": (lambda path: path.symlink_to("/dev/null"), "a device"),
    "socket": (_socket, "a socket"),
    "loop": (_loop, "Too many levels"),
    "dangling link": (lambda path: path.symlink_to("gone"), "No such file"),
    "nothing.safetensors": (lambda path: path.touch(), "empty"),
    "zip.safetensors": (_mislabelled, FINE),
}

CASES: dict[str, Case] = {
    **_DAMAGED,
    **{
        f"header, {name}": (_write(lambda h=header, n=count: tensorfile(h, n)), expected)
        for name, (header, count, expected) in _HEADERS.items()
    },
    **{
        f"{kind}, {name}": (_write(make), expected)
        for name, (content, expected) in _TYPES.items()
        for kind, make in _both(content)
        if kind == "zip" or "keys" not in name
    },
    **{
        f"{kind}, {name}": (_write(lambda m=make, p=pack: p(m())), expected)
        for name, (make, expected) in _PICKLES.items()
        for kind, pack in (("zip", packed), ("legacy", packed_legacy))
    },
    **{f"archive, {name}": (_write(make), expected) for name, (make, expected) in _ARCHIVES.items()},
    **_PLACES,
}


def write(folder: Path) -> dict[str, Path]:
    """Write the whole corpus below a folder, and return where each case lies."""
    places = {}
    for name, (make, _) in CASES.items():
        places[name] = folder / name.replace(" ", "_")
        make(places[name])
    return places


def read(path: Path) -> dict[str, Any]:
    """Load one file as a user would, and tell how it ended and what it took."""
    from resprune import pipeline
    from resprune.errors import ResPruneError

    start = time.process_time()
    _forget_peak()
    try:
        chain = pipeline.load(path, device="cpu")
        ended = f"loaded {chain.depth} blocks"
    except ResPruneError as error:
        ended = str(error) if error.hint else f"no hint: {error}"
    except Exception as error:
        ended = f"crashed: {error!r}"
    return {"ended": ended, "seconds": time.process_time() - start, "peak": _peak()}


def _forget_peak() -> None:
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Return the largest memory in bytes, of this file where the system can tell."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(read(Path(line.rstrip("\n")))), flush=True)
