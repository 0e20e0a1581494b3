"""How close `order_removals` comes to greedy backward elimination, and what it costs.

Greedy, the oracle, tries every block in every step. "Compensated" rules judge removals after fits that make
up for them, as `prune` does where it recovers the network. Calibration images are training images, no labels
and no test images. A pass is one forward pass of the whole network over all calibration images; parts of it
count by their multiply-accumulates, a backward pass twice; seconds are those of one thread. The demo ships no
training images: its first split is used.

    python benchmarks/selection.py CHECKPOINTS CIFAR10 --deep runs/resnet56
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from deep import random_network
from torch import Tensor

import resprune
from resprune.chain import ResidualChain, seeded_images
from resprune.data import open_data
from resprune.sensitivity import order_removals

NETWORKS = {"resnet20-cifar10.th": 3, "resnet32-cifar10.th": 5, "demo": 10}
RULES: dict[str, dict[str, Any]] = {
    "greedy": {"effort": math.inf},
    "trials": {},
    "gates": {"rank": "gates", "effort": 2.5},
    "greedy, compensated": {"compensated": True, "effort": math.inf},
    "trials, compensated": {"compensated": True},
}


def main() -> None:
    """Print one row for each network, draw of images and rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--deep", help="a network of 27 blocks, such as deep.py trains; else one at random")
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = "network | blocks removed | draw | rule | nats | to greedy's | passes | seconds | same blocks"
    print(f"| {titles} |")
    print("|---" * 9 + "|")
    networks = {
        "demo" if name == "demo" else str(options.checkpoints / name): n for name, n in NETWORKS.items()
    }
    networks |= {} if options.deep is None else {options.deep: 9}
    for path, count in networks.items():
        name, demo = Path(path).name, path == "demo"
        chain = resprune.load(path)
        for draw in range(options.draws):
            spec, split = ("demo", None) if demo else (options.cifar10, "train")
            data = open_data(
                spec, chain.preprocessing, chain.classes, split=split, samples=options.samples, seed=draw
            )
            _compare(name, draw, chain, [images for images, _ in data], count)
    if options.deep is None:
        # Passes can be counted on random weights, quality cannot.
        deep = random_network()
        _compare("27 blocks, random", 0, deep, [seeded_images(deep.preprocessing, options.samples, seed=0)], 9)


def _compare(name: str, draw: int, chain: ResidualChain, images: list[Tensor], count: int) -> None:
    oracle, best = set[int](), math.nan
    for rule, options in RULES.items():
        passes: list[float] = []
        started = time.perf_counter()
        order = order_removals(chain, images, count=count, on_pass=passes.append, **options)
        seconds = time.perf_counter() - started
        blocks, got = {removal.index for removal in order}, order[-1].divergence
        if rule.startswith("greedy"):
            oracle, best = blocks, got
        ratio = f"{got / best:.2f}" if best > 1e-3 else "-"  # random weights: nothing to compare
        same = len(blocks & oracle)
        print(
            f"| {name} | {count} of {chain.depth} | {draw} | {rule} | {got:.3f} | {ratio}"
            f" | {sum(passes):.1f} | {seconds:.0f} | {same} of {count} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
