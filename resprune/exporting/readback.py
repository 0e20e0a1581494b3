"""A script of its own: it reads what was written with stock libraries, where resprune cannot be imported.

``python readback.py JOBS`` reads a JSON file: ``threads``, ``root`` (where resprune lies), ``result`` (the file
to write) and ``jobs``, each with ``format``, ``path``, ``images`` and ``logits`` (safetensors files, read and
written) and ``batches`` (their sizes). It must import nothing of resprune's: that is what it proves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy
from safetensors.numpy import load_file, save_file

Run = Callable[[numpy.ndarray], numpy.ndarray]
"""Images (n, c, h, w) -> logits (n, classes)."""


def _timm(path: str) -> tuple[Run, str]:
    import timm

    return _module(timm.create_model(f"local-dir:{path}", pretrained=True)), "timm"


def _torchvision(path: str) -> tuple[Run, str]:
    import torchvision
    from safetensors import safe_open
    from safetensors.torch import load_file as load_tensors

    with safe_open(path, framework="pt") as file:
        constructor = file.metadata()["constructor"]
    # The line that users are told to copy is the one that has to work; this process wrote it itself just now.
    network = eval(constructor, {"torchvision": torchvision})
    network.load_state_dict(load_tensors(path), strict=True)
    return _module(network), "torchvision"


def _hugging_face(path: str) -> tuple[Run, str]:
    from transformers import AutoModelForImageClassification

    network = AutoModelForImageClassification.from_pretrained(path, local_files_only=True)
    return _module(network, lambda output: output.logits), "transformers"


def _torch_export(path: str) -> tuple[Run, str]:
    import torch

    return _module(torch.export.load(path).module(), evaluate=False), "torch"


def _onnx(path: str) -> tuple[Run, str]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: numpy.ndarray) -> numpy.ndarray:
        return numpy.asarray(session.run(["logits"], {"images": images})[0])

    return run, "onnxruntime"


def _resprune(path: str) -> tuple[Run, str]:
    from resprune.loading import load

    return _module(load(path, device="cpu").network), "resprune"


def _module(network: Any, logits: Callable[[Any], Any] = lambda output: output, evaluate: bool = True) -> Run:
    """Return a function that runs an `nn.Module` on arrays."""
    import torch

    network = network.eval() if evaluate else network
    with torch.no_grad():
        # Kernels choose their path by alignment, which tensors mapped from a file lack: other last bits.
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def run(images: numpy.ndarray) -> numpy.ndarray:
        return logits(network(torch.from_numpy(images).clone())).numpy()

    return run


READERS: dict[str, Callable[[str], tuple[Run, str]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
    "torch-export": _torch_export,
    "onnx": _onnx,
    "safetensors": _resprune,
}
THREADS = 1


def main(file: str) -> None:
    """Read every export of the jobs in turn, and write which library did."""
    global THREADS  # noqa: PLW0603 - a script's one setting
    with open(file, encoding="utf-8") as opened:
        given = json.load(opened)
    THREADS = given["threads"]
    jobs = given["jobs"]
    if any(job["format"] != "onnx" for job in jobs):
        import torch

        torch.set_num_threads(THREADS)
    readers = {}
    # Stock libraries first: resprune's own reader lifts the ban on importing it.
    for job in sorted(jobs, key=lambda job: job["format"] == "safetensors"):
        if job["format"] == "safetensors":
            sys.modules.pop("resprune", None)
            sys.path.insert(0, given["root"])
        else:
            sys.modules["resprune"] = None  # pyright: ignore[reportArgumentType]
        readers[job["logits"]] = answer(job)
    with open(given["result"], "w", encoding="utf-8") as opened:
        json.dump(readers, opened)


def answer(job: Any) -> str:
    """Read what a job names, write its logits, and return the library that did, with its version."""
    run, library = READERS[job["format"]](job["path"])
    images = load_file(job["images"])["images"]
    first = 0
    logits = []
    for count in job["batches"]:
        logits.append(run(numpy.ascontiguousarray(images[first : first + count])))
        first += count
    save_file({"logits": numpy.ascontiguousarray(numpy.concatenate(logits))}, job["logits"])
    return f"{library} {version(library)}"


if __name__ == "__main__":
    main(sys.argv[1])
