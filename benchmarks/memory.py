"""Peak memory of measuring 55 exits x 1000 classes over few and over many images.

Each count runs in a process of its own, on random images made batch by batch.

    python benchmarks/memory.py --images 2000 50000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator

import torch

from resprune import families
from resprune.chain import assemble
from resprune.families import preact
from resprune.records import Origin, Preprocessing
from resprune.trajectory import Batch, measure


def random_batches(images: int, size: int) -> Iterator[Batch]:
    """Yield batches of random images and labels."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, size):
        count = min(size, images - start)
        labels = torch.randint(0, 1000, (count,), generator=generator)
        yield torch.randn(count, 3, 16, 16, generator=generator), labels


def peak(images: int) -> float:
    """Return this process's peak memory in MiB after measuring so many images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    architecture = preact.architecture("54 blocks", [54], [8], in_channels=3, classes=1000, stem_stride=2)
    network = families.build(architecture, device="cpu").requires_grad_(False)
    recipe = Preprocessing(3, 16, 16, (0.5,) * 3, (0.5,) * 3)
    chain = assemble(network, architecture, recipe, Origin("random", "0" * 64, "none"))
    trajectory = measure(chain, random_batches(images, 128), drops=False)
    assert trajectory.final.samples == images
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run one count in this process, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 50000])
    options = parser.parse_args()
    if len(options.images) == 1:
        print(f"{peak(options.images[0]):.0f}")
        return
    print("| images | peak memory, MiB |\n|---|---|")
    for images in options.images:
        command = [sys.executable, __file__, "--images", str(images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"| {images:,} | {done.stdout.strip()} |")


if __name__ == "__main__":
    main()
