"""What was written is read back in a new process and compared with the network it was written from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from resprune.chain import ResidualChain, seeded_images
from resprune.checkpoint import WEIGHTS_FILE
from resprune.errors import VerificationError
from resprune.exporting import readback
from resprune.exporting.folder import constructor_of, loads_in_timm, save_tensors
from resprune.families import FAMILIES, Family
from resprune.loading import load
from resprune.records import ReadBack

IMAGES = 4
"""On how many images networks are compared: a batch of one, and one of the others."""


@dataclass(frozen=True, eq=False)
class Written:
    """A file or folder that was written from a network.

    Attributes:
        format: One of `readback.READERS`.
        path: Where it is.
        source: The network, with its own preprocessing.
        relative: Largest difference of the logits that passes, relative to the largest logit; 0 where not a
            bit may differ.
        images: (n, c, h, w) that they are compared on; None for seeded ones.
    """

    format: str
    path: Path
    source: ResidualChain
    relative: float
    images: Tensor | None = None


def read_folder(
    chain: ResidualChain, folder: Path, images: Tensor | None = None, seed: int = 0
) -> ReadBack | None:
    """Read an output folder with every library that its card names, in one process, and compare the logits.

    Args:
        chain: What the folder was written from.
        folder: Complete, but for what is said of this.
        images: A few that it was made for; None takes seeded ones.
        seed: Of those.

    Returns:
        None where nothing can read it: the network's own adapter cannot build one.

    Raises:
        VerificationError: where it cannot be read, or a bit of the logits differs.
    """
    if type(chain.family).build is Family.build:
        return None
    found = read_back(folder_readings(chain, folder, images), seed)
    readers = tuple(reader for one in found for reader in one.readers)
    return replace(
        max(found, key=lambda one: one.max_abs_difference),
        readers=readers,
        new_process=all(one.new_process for one in found),
    )


def folder_readings(chain: ResidualChain, folder: Path, images: Tensor | None) -> list[Written]:
    """Return an output folder once for each library that loads it; see `read_folder` for the arguments."""
    formats = {"safetensors": folder}
    if loads_in_timm(chain):
        formats["timm"] = folder
    if constructor_of(chain):
        formats["torchvision"] = folder / WEIGHTS_FILE
    return [Written(name, path, chain, 0.0, images) for name, path in formats.items()]


def read_back(written: Sequence[Written], seed: int = 0) -> list[ReadBack]:
    """Read files and folders in one new process, which cannot import resprune, and compare their logits.

    resprune's own compact form is read by resprune, in that process too; one of a family that is the user's
    own in this process, since only this one has the adapter.

    Raises:
        VerificationError: where one cannot be read, or differs by more than its tolerance.
    """
    found: list[ReadBack] = []
    with tempfile.TemporaryDirectory(prefix="resprune-") as scratch:
        jobs = []
        for index, one in enumerate(written):
            images = one.images
            if images is None:
                images = seeded_images(one.source.preprocessing, IMAGES, seed)
            files = {name: str(Path(scratch) / f"{index}.{name}") for name in ("images", "logits")}
            save_tensors({"images": images.cpu().contiguous()}, Path(files["images"]))
            path, batches = str(one.path.absolute()), _batches(len(images))
            jobs.append({"format": one.format, "path": path, "batches": batches, **files})
        foreign = [job for job, one in zip(jobs, written, strict=True) if _is_read_elsewhere(one)]
        readers = _run(foreign, Path(scratch)) if foreign else {}
        for job, one in zip(jobs, written, strict=True):
            images = load_file(job["images"])["images"]
            if _is_read_elsewhere(one):
                logits, reader = load_file(job["logits"])["logits"], readers[job["logits"]]
            else:
                again = load(one.path, device="cpu", family=one.source.family)
                logits, reader = _logits(again, images), "resprune with the family's adapter"
            found.append(_compare(one, _logits(one.source, images), logits, reader))
    return found


def _batches(count: int) -> list[int]:
    return [1, count - 1] if count > 1 else [count]


def _is_read_elsewhere(one: Written) -> bool:
    return one.format != "safetensors" or one.source.family in FAMILIES


def _run(jobs: list[dict[str, object]], scratch: Path) -> dict[str, str]:
    """Run the script on jobs; returns which library wrote each file of logits."""
    result, given = scratch / "result.json", scratch / "jobs.json"
    root = str(Path(__file__).parents[2])
    told = {"threads": torch.get_num_threads(), "root": root, "result": str(result), "jobs": jobs}
    given.write_text(json.dumps(told), encoding="utf-8")
    # Never a download, never a device: what was written has to be enough, and the CPU's bits are compared.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    process = subprocess.run(
        [sys.executable, "-P", readback.__file__, str(given)],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"the process ended with {process.returncode}"]
        formats = ", ".join(sorted({str(job["format"]) for job in jobs}))
        raise VerificationError(
            f"what was written cannot be read back as {formats} ({lines[-1][:300]})",
            hint="nothing was written; please report this with the checkpoint",
        )
    return json.loads(result.read_text(encoding="utf-8"))


@torch.inference_mode()
def _logits(chain: ResidualChain, images: Tensor) -> Tensor:
    """Return a network's logits on the CPU, from weights that lie as the reader's do."""
    network = copy.deepcopy(chain.network).cpu()
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return torch.cat([network(batch.clone()) for batch in images.split(_batches(len(images)))])


def _compare(one: Written, expected: Tensor, got: Tensor, reader: str) -> ReadBack:
    where = one.source.origin.path
    found = ReadBack(
        max_abs_difference=0.0,
        tolerance=one.relative * float(expected.abs().max()),
        inputs="seeded noise" if one.images is None else "images",
        samples=len(expected),
        readers=(reader,),
        new_process=_is_read_elsewhere(one),
    )
    if not bool(torch.isfinite(expected).all()):
        raise VerificationError(f"the network's logits on {found.inputs} are not finite", where=where)
    if got.shape != expected.shape:
        what = f"the logits have the shape {tuple(got.shape)}, not {tuple(expected.shape)}"
        raise VerificationError(f"read back by {found.place}, {what}", where=where, hint="nothing was written")
    found = replace(found, max_abs_difference=float((got - expected).abs().max()))
    if not found.max_abs_difference <= found.tolerance:
        raise VerificationError(
            f"the logits differ from {found.against} by {found.max_abs_difference:.3g},"
            f" more than {found.tolerance:.3g}",
            where=where,
            hint="nothing was written; please report this with the checkpoint",
        )
    return found
