"""What ``resprune inspect`` costs beyond its start-up, for safetensors files of many sizes.

The files are sparse: their headers describe real networks, the numbers behind them are never read. One
process, the files in turn, round after round; medians.

    python benchmarks/inspection.py --rounds 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from resprune import pipeline
from resprune.formats import read_safetensors
from resprune.records import Reading

NETWORKS = ("resnet18", "resnet50", "resnet152", "regnety_320", "resnetv2_152x4_bit")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: sparse_file(name, Path(folder)) for name in NETWORKS}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in NETWORKS}
        for _ in range(options.rounds + 1):
            for name, path in files.items():
                times[name].append((clocked(read, path), clocked(inspect, path)))
        print("| network | file, MiB | reading, ms | all of inspect, ms |\n|---|---|---|---|")
        for name, path in files.items():
            reading, everything = (
                1e3 * statistics.median(column) for column in zip(*times[name][1:], strict=True)
            )
            print(f"| {name} | {path.stat().st_size >> 20:,} | {reading:.1f} | {everything:.0f} |")


def sparse_file(name: str, folder: Path) -> Path:
    """Write a file with the header of a network's weights and a hole where the numbers would be."""
    with torch.device("meta"):
        weights = timm.create_model(name).state_dict()
    header, at = {}, 0
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    for key, tensor in weights.items():
        header[key] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape)}
        header[key]["data_offsets"] = [at, at + tensor.nbytes]
        at += tensor.nbytes
    text = json.dumps(header).encode()
    path = folder / f"{name}.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def clocked(work: object, path: Path) -> float:
    """Return the seconds that work on a file takes."""
    assert callable(work)
    started = time.perf_counter()
    work(path)
    return time.perf_counter() - started


def read(path: Path) -> None:
    """Read names, shapes and types, and check that they describe the file."""
    read_safetensors(path, where=str(path), numbers=False)


def inspect(path: Path) -> None:
    """Do all that the command does, but for printing."""
    _ = pipeline.load(path, device="cpu", reading=Reading(numbers=False)).summary


if __name__ == "__main__":
    main()
