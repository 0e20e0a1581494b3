"""What was written is read back in a new process and compared with the network it was written from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from resprune.chain import ResidualChain, seeded_images
from resprune.errors import VerificationError
from resprune.exporting import readback
from resprune.exporting.folder import save_tensors
from resprune.families import FAMILIES
from resprune.loading import load
from resprune.records import Verification

BATCHES = (1, 3)
"""Sizes of the batches of seeded images that are compared: a batch of one, and another."""


@dataclass(frozen=True, eq=False)
class Written:
    """A file or folder that was written from a network.

    Attributes:
        format: One of `readback.READERS`.
        path: Where it is.
        source: The network, with its own preprocessing.
        relative: Largest difference of the logits that passes, relative to the largest logit; 0 where not a
            bit may differ.
    """

    format: str
    path: Path
    source: ResidualChain
    relative: float


def read_back(written: Sequence[Written], seed: int = 0) -> list[Verification]:
    """Read files and folders in one new process, which cannot import resprune, and compare their logits.

    resprune's own compact form is read by resprune, in that process too; one of a family that is the user's
    own in this process, since only this one has the adapter.

    Raises:
        VerificationError: where one cannot be read, or differs by more than its tolerance.
    """
    found: list[Verification] = []
    with tempfile.TemporaryDirectory(prefix="resprune-") as scratch:
        jobs = []
        for index, one in enumerate(written):
            images = seeded_images(one.source.preprocessing, sum(BATCHES), seed)
            files = {name: str(Path(scratch) / f"{index}.{name}") for name in ("images", "logits")}
            save_tensors({"images": images}, Path(files["images"]))
            jobs.append({"format": one.format, "path": str(one.path.absolute()), "batches": BATCHES, **files})
        foreign = [job for job, one in zip(jobs, written, strict=True) if _is_read_elsewhere(one)]
        readers = _run(foreign, Path(scratch)) if foreign else {}
        for job, one in zip(jobs, written, strict=True):
            images = load_file(job["images"])["images"]
            if _is_read_elsewhere(one):
                logits, reader = load_file(job["logits"])["logits"], f"{readers[job['path']]} in a new process"
            else:
                again = load(one.path, device="cpu", family=one.source.family)
                logits, reader = _logits(again, images), "resprune with the family's adapter"
            found.append(_compare(one, _logits(one.source, images), logits, reader))
    return found


def _is_read_elsewhere(one: Written) -> bool:
    return one.format != "safetensors" or one.source.family in FAMILIES


def _run(jobs: list[dict[str, object]], scratch: Path) -> dict[str, str]:
    """Run the script on jobs; returns which library read each path."""
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
    return {read["path"]: read["reader"] for read in json.loads(result.read_text(encoding="utf-8"))}


@torch.inference_mode()
def _logits(chain: ResidualChain, images: Tensor) -> Tensor:
    """Return a network's logits on the CPU, from weights that lie as the reader's do."""
    network = copy.deepcopy(chain.network).cpu()
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return torch.cat([network(batch.clone()) for batch in images.split(list(BATCHES))])


def _compare(one: Written, expected: Tensor, got: Tensor, reader: str) -> Verification:
    where = one.source.origin.path
    if not bool(torch.isfinite(expected).all()):
        raise VerificationError("the network's logits on seeded images are not finite", where=where)
    if got.shape != expected.shape:
        what = (
            f"read back by {reader}, the logits have the shape {tuple(got.shape)}, not {tuple(expected.shape)}"
        )
        raise VerificationError(what, where=where, hint="nothing was written")
    difference = float((got - expected).abs().max())
    tolerance = one.relative * float(expected.abs().max())
    against = f"the source network on {len(expected)} seeded images, read by {reader}"
    if not difference <= tolerance:
        raise VerificationError(
            f"the logits differ from {against} by {difference:.3g}, more than {tolerance:.3g}",
            where=where,
            hint="nothing was written; please report this with the checkpoint",
        )
    return Verification(difference, against, tolerance)
