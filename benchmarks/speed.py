"""How much of the multiply-accumulates that are saved arrives as time saved, eager mode on the CPU.

Of every network about a third of the blocks goes, none of them with a projection: last blocks of stages.
ResNet-18 has four that can go, whose times differ: it is measured without the first three of those, and without
the last three. With --for-time as many blocks go, those that a measurement of single blocks finds dearest at
that batch size, as `prune --speedup` makes it; then the whole networks are measured anew. Weights are random:
they do not change how long a call takes. Both networks are called in turn in every round, and the ratio of
their times is taken within the round.

    python benchmarks/speed.py --threads 1
    python benchmarks/speed.py --threads 1 --channels-last --for-time
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from deep import random_network

import resprune
from resprune.chain import ResidualChain, seeded_images
from resprune.checkpoint import Checkpoint
from resprune.latency import block_prices
from resprune.opening import open_chain
from resprune.pipeline import select
from resprune.records import Origin
from resprune.surgery import remove_blocks

REMOVED = (
    ("resnet18", (1, 3, 5)),
    ("resnet18", (3, 5, 7)),
    ("resnet50", (2, 6, 11, 12, 15)),
    ("27-block CIFAR", (6, 7, 8, 15, 16, 17, 24, 25, 26)),
)


def main() -> None:
    """Print one row for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20, help="of batches of 32; ten times as many of one")
    parser.add_argument("--network", choices=[name for name, _ in REMOVED])
    parser.add_argument("--channels-last", action="store_true", help="weights and input in that memory format")
    parser.add_argument("--for-time", action="store_true", help="remove the blocks that take most time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layout = "channels last" if options.channels_last else "contiguous"
    print(f"torch {torch.__version__}, threads: {options.threads}, {layout}; ms before and after\n")
    print("| network | input | without blocks | batch | MACs saved | time saved | arrives | ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, removed in REMOVED:
        if options.network not in (None, name):
            continue
        if options.for_time and (name, removed) != next(row for row in REMOVED if row[0] == name):
            continue
        chain = _network(name)
        if options.channels_last:
            chain.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for batch in (1, 32):
            if options.for_time:
                removed = _dearest(chain, batch, len(removed), options.channels_last)
            pruned = remove_blocks(chain, select(remove=removed, blocks=chain.depth))
            saved = 1 - pruned.summary.macs / chain.summary.macs
            rounds = options.rounds * (10 if batch == 1 else 1)
            outcome = resprune.bench(
                pruned, chain, batch_size=batch, rounds=rounds, channels_last=options.channels_last
            )
            assert outcome.ratio is not None
            assert outcome.against is not None
            low, middle, high = (
                1 - own for own in (outcome.ratio.high, outcome.ratio.median, outcome.ratio.low)
            )
            before, after = outcome.against.latency.median_ms, outcome.first.latency.median_ms
            print(
                f"| {name} | {chain.preprocessing.height} | {_told(removed)} of {chain.depth} | {batch}"
                f" | {saved:.1%} | {middle:.1%} ({low:.1%} to {high:.1%}) | {middle / saved:.0%}"
                f" | {before:.2f}, {after:.2f} |",
                flush=True,
            )


def _dearest(chain: ResidualChain, batch: int, count: int, channels_last: bool) -> tuple[int, ...]:
    """Return so many blocks without a projection: those whose removal saves most time."""
    images = seeded_images(chain.preprocessing, batch, seed=0)
    with torch.inference_mode():
        layout = torch.channels_last if channels_last else torch.contiguous_format
        prices = block_prices(chain, images.to(memory_format=layout), seconds=10)
    free = [block.index for block in chain.blocks if not len(block.part.skip)]
    return tuple(sorted(sorted(free, key=lambda k: -prices[k])[:count]))


def _told(removed: tuple[int, ...]) -> str:
    return ", ".join(map(str, removed))


def _network(name: str) -> ResidualChain:
    if name not in torchvision.models.list_models():
        return random_network()
    torch.manual_seed(0)
    weights = dict(torchvision.models.get_model(name).state_dict())
    return open_chain(Checkpoint(weights, Origin(name, "0" * 64, "random")))


if __name__ == "__main__":
    main()
