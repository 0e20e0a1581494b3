"""A network as a function of images: as it is, compiled, or in ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from resprune.chain import ResidualChain
from resprune.checks import check_mode
from resprune.errors import ArchitectureError, CheckpointError, ResPruneError, UsageError
from resprune.exporting import graphs, targets
from resprune.exporting.single import SCHEMA
from resprune.extras import from_extra
from resprune.records import Origin, Preprocessing

Mode = Literal["eager", "compiled", "onnxruntime"]
MODES: tuple[str, ...] = get_args(Mode)
Run = Callable[[Tensor], Tensor]
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")
"""Words of ONNX Runtime's and of C++'s allocators, on Linux and on Windows."""


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """An ONNX file's network in ONNX Runtime, on the CPU.

    Attributes:
        origin: The file.
        session: ONNX Runtime's.
        batch: Images that every call takes, where the file says how many.
        shape: (c, h, w) of the input, None where the file leaves it open.
        classes: Number of logits, None likewise.
        preprocessing: How images become its input; None where the file does not say.
        class_names: One for each logit; None likewise.
    """

    origin: Origin
    session: Any
    batch: int | None
    shape: tuple[int | None, int | None, int | None]
    classes: int | None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def device(self) -> torch.device:
        """Where it takes images."""
        return torch.device("cpu")

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (n, classes) of images (n, c, h, w), on the images' device.

        Raises:
            ArchitectureError: where ONNX Runtime fails.
            MemoryError: where it has no memory for so many.
        """
        if self.batch is None:
            return self._run(images)
        pieces = []
        for piece in images.split(self.batch):  # what the last one lacks is filled with zeros, and cut off
            blank = piece.new_zeros(self.batch - len(piece), *piece.shape[1:])
            pieces.append(self._run(torch.cat([piece, blank]) if len(blank) else piece)[: len(piece)])
        return torch.cat(pieces)

    def _run(self, images: Tensor) -> Tensor:
        feed = {self.session.get_inputs()[0].name: images.cpu().contiguous().numpy()}
        try:
            (logits,) = self.session.run(None, feed)
        except Exception as error:  # its errors have no common class
            if any(words in str(error) for words in _NO_MEMORY):
                raise MemoryError(_reason(error)) from error
            raise ArchitectureError(
                f"ONNX Runtime cannot run it ({_reason(error)})", where=self.origin.path
            ) from error
        return torch.from_numpy(logits).to(images.device)


Network = ResidualChain | OnnxNetwork


def is_onnx(source: str | Path) -> bool:
    """Whether a network is to be read as an ONNX file: by its suffix."""
    return Path(source).suffix.lower() == ".onnx"


def open_onnx(path: str | Path) -> OnnxNetwork:
    """Open an ONNX file in ONNX Runtime, with as many threads as torch has.

    Raises:
        UsageError: where ONNX Runtime is not installed.
        CheckpointError: where the file cannot be read.
        ArchitectureError: where it does not take one batch of images and give logits.
    """
    _runtime()  # what is missing first: the file may be fine
    try:
        digest = sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror})", where=path, hint="check the path"
        ) from error
    return _network(Origin(str(path), digest, "ONNX"), str(path))


def ready(chain: ResidualChain, mode: str, images: Tensor) -> Run:
    """Return a chain's network as a function that is ready to be measured on images of this shape.

    Args:
        chain: Left as it is.
        mode: One of `MODES`.
        images: (n, c, h, w), on the chain's device.

    Raises:
        UsageError: where the mode does not exist, or does not work for this network on this machine.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}", hint=f"use {', '.join(MODES)}")
    check_mode(chain.network, chain.origin.path)
    if mode == "eager":
        return chain.network
    made = _compiled if mode == "compiled" else _exported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler's and the exporter's own code
            return made(chain, images)
    except ResPruneError:
        raise
    except Exception as error:  # compilers and exporters raise whatever their parts do
        raise UsageError(
            f"cannot be run as {mode} ({_reason(error)})", where=chain.origin.path, hint="use --mode eager"
        ) from error


def _compiled(chain: ResidualChain, images: Tensor) -> Run:
    network = torch.compile(chain.network)
    with torch.inference_mode():
        network(images)  # compiled on the first call, for these images
    return network


def _exported(chain: ResidualChain, images: Tensor) -> Run:
    targets.find("onnx")
    model = graphs.to_onnx(graphs.trace(chain, fold=False).program, {}, optimise=False)
    return _network(chain.origin, model.SerializeToString())


def _network(origin: Origin, model: str | bytes) -> OnnxNetwork:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are told by resprune, once
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise CheckpointError(
            f"ONNX Runtime cannot read it ({_reason(error)})",
            where=origin.path,
            hint="export the network again",
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        got = "; ".join(f"{own.name} {own.shape} {own.type}" for own in inputs)
        raise ArchitectureError(
            f"takes no single float batch (n, c, h, w) of images; got {got}",
            where=origin.path,
            hint="export the network alone, without what goes before it",
        )
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        got = "; ".join(f"{own.name} {own.shape}" for own in outputs)
        raise ArchitectureError(
            f"gives no single batch (n, classes) of logits; got {got}",
            where=origin.path,
            hint="export the network alone, without what follows it",
        )
    batch, channels, height, width = (_known(size) for size in inputs[0].shape)
    classes = _known(outputs[0].shape[1])
    recipe, names = _about(origin, session, classes)
    return OnnxNetwork(origin, session, batch, (channels, height, width), classes, recipe, names)


def _about(
    origin: Origin, session: Any, classes: int | None
) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """Return preprocessing and class names where `resprune export` wrote the file.

    Raises:
        CheckpointError: where they are damaged.
    """
    told: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if told.get("resprune") != SCHEMA:
        return None, None
    try:
        recipe = Preprocessing.from_json(json.loads(told["preprocessing"]), source="the file's metadata")
        names = tuple(map(str, json.loads(told["class_names"]))) if "class_names" in told else None
        if names is not None and classes not in (None, len(names)):
            raise ValueError(f"{len(names)} class names for {classes} logits")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"its metadata are damaged ({type(error).__name__}: {error})",
            where=origin.path,
            hint="export the network again",
        ) from error
    return recipe, names


def _known(size: object) -> int | None:
    """Names of dimensions are strings, or None: the file leaves them open."""
    return size if isinstance(size, int) else None


def _runtime() -> Any:
    with from_extra("onnx", "this needs"):
        return import_module("onnxruntime")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
