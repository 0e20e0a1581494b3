"""What weight of the states, rate, clipping and augmentation do to a healing, on training images held out.

Blocks are removed, the network is recovered and healed; divergence from the original and accuracy are
those of the images that the healing holds out. No test image is read.

    python benchmarks/healing.py CHECKPOINT CIFAR10 --remove 1,4,5 --weights 0 100 300 1000 3000
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import torch

import resprune
from resprune import trajectory
from resprune.records import RECIPES
from resprune.restoration import Restoration
from resprune.surgery import remove_blocks


def main() -> None:
    """Print one row for each weight and rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("data")
    parser.add_argument("--remove", required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 100.0, 300.0, 1000.0, 3000.0])
    parser.add_argument("--rates", type=float, nargs="+", default=[RECIPES["heal"].rate])
    parser.add_argument("--clips", type=float, nargs="+", default=[RECIPES["heal"].clip], help="0 for none")
    parser.add_argument(
        "--plain",
        type=int,
        nargs="+",
        default=[RECIPES["heal"].plain_epochs],
        help="last epochs, not augmented",
    )
    parser.add_argument("--constant", action="store_true", help="the weight of the states does not fall to 0")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, help="in the place of epochs")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the healing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chain = resprune.load(options.checkpoint, device=options.device)
    plan = resprune.select(remove=options.remove.split(","), paths=[block.path for block in chain.blocks])
    cut = remove_blocks(chain, plan)
    print("| weight of the states | rate | clip | plain | divergence, nats | accuracy % (held-out images) |")
    print("|---|---|---|---|---|---|")
    for weight, rate, clip, plain in itertools.product(
        options.weights, options.rates, options.clips, options.plain
    ):
        recipe = replace(
            RECIPES["heal"],
            epochs=options.epochs,
            steps=options.steps,
            batch_size=options.batch,
            rate=rate,
            clip=clip or None,
            feature_weight=weight,
            feature_end=None if options.constant else RECIPES["heal"].feature_end,
            plain_epochs=plain,
            precision=options.precision,
        )
        restoration = Restoration.open(chain, options.data, heal=recipe, device=options.device)
        restored = restoration.restore(cut, plan)
        _, healing = restored.steps[-1]
        assert restoration.healer is not None
        held_out = restoration.healer.images.held_out
        assert held_out is not None
        accuracy = trajectory.evaluate(restored.network, held_out).accuracy or 0.0
        tried = f"| {weight:g} | {rate:g} | {clip:g} | {plain}"
        print(f"{tried} | {healing.after:.4f} | {100 * accuracy:.2f} |", flush=True)


if __name__ == "__main__":
    main()
