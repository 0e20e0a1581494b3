"""Which distance of outputs tells how many images a network gets right once blocks are cut out of it.

Sets of blocks are removed, all of them or some drawn at random; distances from the original's outputs are taken
on some training images, the accuracy on others. No test images are read.

    python benchmarks/cut.py resnet20-cifar10.th cifar10 --remove 3
"""

from __future__ import annotations

import argparse
import itertools
import random

import pandas
import torch
from torch import Tensor

import resprune
from resprune.chain import ResidualChain
from resprune.data import open_data
from resprune.divergence import kl, total_variation


def main() -> None:
    """Print one row for each distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("cifar10")
    parser.add_argument("--remove", type=int, default=3, help="blocks of every set")
    parser.add_argument("--sets", type=int, default=100, help="at most so many are tried")
    parser.add_argument("--samples", type=int, default=512, help="images that distances are taken on")
    parser.add_argument("--judges", type=int, default=2000, help="others that the accuracy is taken on")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chain = resprune.load(options.checkpoint)
    samples = options.samples + options.judges
    data = open_data(options.cifar10, chain.preprocessing, chain.classes, split="train", samples=samples)
    images, labels = (torch.cat(own) for own in zip(*data, strict=True))
    sets = list(itertools.combinations(range(chain.depth), options.remove))
    sets = sorted(random.Random(0).sample(sets, min(options.sets, len(sets))))
    original = _logits(chain, images, ())
    seen, judged = slice(options.samples), slice(options.samples, None)
    rows = []
    for removed in sets:
        logits = _logits(chain, images, removed)
        figures = _distances(original[seen], logits[seen])
        right = logits[judged].argmax(1) == labels[judged]
        rows.append({**figures, "accuracy": 100 * float(right.double().mean())})
    table = pandas.DataFrame(rows)
    print(f"{options.checkpoint}: {len(sets)} sets of {options.remove} of {chain.depth} blocks")
    print(f"accuracy % after the cut: best {table.accuracy.max():.2f}, median {table.accuracy.median():.2f}\n")
    print("| distance | rank correlation with accuracy | accuracy % of its best set |\n|---|---|---|")
    for name in table.columns.drop("accuracy"):
        correlation = -table[name].rank().corr(table.accuracy.rank())
        best = int(table[name].argmin())
        print(f"| {name} | {correlation:.2f} | {table.accuracy.iloc[best]:.2f}, without {sets[best]} |")


@torch.inference_mode()
def _logits(chain: ResidualChain, images: Tensor, removed: tuple[int, ...]) -> Tensor:
    found = []
    for batch in images.split(128):
        x = chain.stem(batch.contiguous(memory_format=torch.channels_last))
        for block in chain.blocks:
            x = block.skip(x) if block.index in removed else block(x)
        found.append(chain.resume(chain.depth, x))
    return torch.cat(found)


def _distances(original: Tensor, logits: Tensor) -> dict[str, float]:
    """Return every distance, sums over images."""
    return {
        "divergence": kl(original, logits),
        "divergence at temperature 4": kl(original / 4, logits / 4),
        "total variation": total_variation(original, logits),
    }


if __name__ == "__main__":
    main()
