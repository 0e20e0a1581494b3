"""What measuring all exits costs, beside a bare forward pass and beside the N+1 SubResNets one by one.

All contenders see the same batches in one process, in turn, round after round; ratios are taken within
a round, and their median and quartiles are printed. Weights are random: they do not change the cost.

    python benchmarks/exits.py --threads 2 --rounds 7

Contenders:

- bare: ``network(images)`` as a user calls it, images and weights in the default memory format;
- bare, channels last: the same with both in the memory format that `analyze` works in;
- analyze: `resprune.trajectory.measure` without drop effects;
- analyze with drops: the same with them;
- one by one: every SubResNet-M, M = 0..N, built and run by itself.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.records import Architecture, Origin, Preprocessing
from resprune.selection import select
from resprune.surgery import remove_blocks
from resprune.trajectory import measure

NETWORKS = {
    "CIFAR ResNet, 27 blocks": Architecture(
        "cifar-resnet",
        "resnet56",
        ("b" * 9,) * 3,
        {"widths": [16, 32, 64], "in_channels": 3, "classes": 10, "shortcut": "A"},
    ),
    "ResNet-50, 224x224": Architecture(
        "torchvision-resnet",
        "resnet50",
        ("bbb", "bbbb", "bbbbbb", "bbb"),
        {"block": "bottleneck", "groups": 1, "width_per_group": 64, "classes": 1000},
    ),
}


def make_chain(architecture: Architecture) -> ResidualChain:
    """Return a chain with the constructor's random weights."""
    torch.manual_seed(0)
    network = families.build(architecture, device="cpu").requires_grad_(False)
    recipe = families.family_of(architecture).preprocessing(architecture)
    size = 32 if architecture.family == "cifar-resnet" else 224
    recipe = Preprocessing(3, size, size, recipe.mean, recipe.std)
    return assemble(network, architecture, recipe, Origin("random", "0" * 64, "none"))


@torch.inference_mode()
def contenders(chain: ResidualChain, batches: list[Tensor], naive: bool) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name."""
    plain = [batch.contiguous() for batch in batches]
    whole = select(depth=chain.depth, blocks=chain.depth)
    channels_last = remove_blocks(chain, whole).network.to(memory_format=torch.channels_last)
    labelled = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]

    def run(network: torch.nn.Module, images: list[Tensor]) -> None:
        with torch.inference_mode():
            for batch in images:
                network(batch)

    found: dict[str, Callable[[], object]] = {
        "bare": lambda: run(chain.network, plain),
        "bare, channels last": lambda: run(channels_last, batches),
        "analyze": lambda: measure(chain, labelled, drops=False),
    }
    if naive:
        depths = range(chain.depth + 1)
        subs = [remove_blocks(chain, select(depth=m, blocks=chain.depth)).network for m in depths]
        found["analyze with drops"] = lambda: measure(chain, labelled)
        found["one by one"] = lambda: [run(sub, batches) for sub in subs]
    return found


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=NETWORKS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, {options.rounds} rounds"
    )
    for name, architecture in NETWORKS.items():
        if options.only not in (None, name):
            continue
        chain = make_chain(architecture)
        small = chain.preprocessing.height == 32
        shape = (128, 3, 32, 32) if small else (32, 3, 224, 224)
        batches = [torch.randn(shape).to(memory_format=torch.channels_last) for _ in range(4 if small else 1)]
        runs = contenders(chain, batches, naive=small)
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(options.rounds):
            for key, run in runs.items():
                started = time.perf_counter()
                run()
                times[key].append(time.perf_counter() - started)
        images = sum(map(len, batches))
        print(f"\n{name}, batches of {shape[0]}\n\n| contender | ms an image | times bare | times analyze |")
        print("|---|---|---|---|")
        for key, taken in times.items():
            each = 1e3 * statistics.median(taken) / images
            print(
                f"| {key} | {each:.2f} | {_ratio(taken, times['bare'])} | {_ratio(taken, times['analyze'])} |"
            )


def _ratio(taken: list[float], against: list[float]) -> str:
    ratios = [a / b for a, b in zip(taken, against, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
