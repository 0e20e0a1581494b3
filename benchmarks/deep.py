"""Train a CIFAR ResNet of 27 blocks, for the benchmarks that want a deep one where no checkpoint is at hand.

Ordinary training on the training images alone, in as many epochs as there is time for; killed, it goes on where
it was. With ``--grow`` it begins with a shallower network of the same shape, between whose blocks others
are put that do nothing at first, which is better where the epochs are few. The result is a checkpoint that
every benchmark and command takes.

    python benchmarks/deep.py CIFAR10 --epochs 8 --out runs/resnet56
    python benchmarks/deep.py CIFAR10 --epochs 12 --grow resnet32-cifar10.th --out runs/resnet56
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import resprune
from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.fresh import FROM_SCRATCH, initialise
from resprune.records import Architecture, FinetuneOutcome, Origin, Preprocessing

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


BLOCKS = 9
"""Of every stage."""


def random_network() -> ResidualChain:
    """Return a 27-block CIFAR ResNet (three stages of nine, option A) with random weights."""
    options = {"names": "akamaster", "block": "basic", "stem": 16, "widths": [16, 32, 64], "in_channels": 3}
    options |= {"classes": 10, "shortcut": "A", "padding": "centred"}
    architecture = Architecture("cifar-resnet", "resnet56", ("b" * BLOCKS,) * 3, options)
    network = families.build(architecture).to_empty(device="cpu")
    initialise(network, torch.Generator().manual_seed(0))
    recipe = Preprocessing(3, 32, 32, _MEAN, _STD, source="CIFAR-10's training images")
    origin = Origin("resnet56 at random", "", FROM_SCRATCH)
    return assemble(network.eval().requires_grad_(False), architecture, recipe, origin)


def grown_network(shallower: Path) -> ResidualChain:
    """Return one that computes what a shallower one with akamaster's names does.

    It has that one's blocks, spread over each stage; those between do nothing.
    """
    start, deep = resprune.load(shallower), random_network()
    state = deep.network.state_dict()
    for name in state:
        if name.startswith("layer") and name.endswith("bn2.weight"):
            state[name] = torch.zeros_like(state[name])
    counts = [len(stage) for stage in start.architecture.stages]
    for name, tensor in start.network.state_dict().items():
        if name.startswith("layer"):
            layer, old, rest = name.split(".", 2)
            count = counts[int(layer.removeprefix("layer")) - 1]
            name = f"{layer}.{round(int(old) * (BLOCKS - 1) / max(count - 1, 1))}.{rest}"
        state[name] = tensor
    deep.network.load_state_dict(state)
    return deep


def _tell(outcome: FinetuneOutcome) -> None:
    row = outcome.rows[-1]
    assert row.final is not None
    assert row.final.accuracy is not None
    print(f"epoch {row.epoch}: held-out accuracy {100 * row.final.accuracy:.2f} %", flush=True)


def main() -> None:
    """Train, tell of every epoch, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay of everything")
    parser.add_argument("--hold-out", type=float, default=0.1, help="fraction that the best epoch is chosen on")
    parser.add_argument("--grow", type=Path, metavar="CKPT", help="begin with this network")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = resprune.Recipe(
        epochs=options.epochs,
        rate=options.rate,
        gamma=0.0,
        warm_up=0.1,
        weight_decay=options.decay,
        branch_decay=options.decay,
        hold_out=options.hold_out,
        precision=options.precision,
    )
    network = random_network() if options.grow is None else grown_network(options.grow)
    resprune.finetune(network, options.cifar10, out=options.out, recipe=recipe, resume=True, on_epoch=_tell)


if __name__ == "__main__":
    main()
