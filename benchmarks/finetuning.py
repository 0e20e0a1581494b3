"""What the stage cost adds to a training step, and to its memory.

Contenders see the same batches in one process, in turn, round after round; ratios are taken within a round,
and their median and quartiles are printed. Peak memory is each contender's own, in a process of its own, over
what that process had before its first step. Weights are random: they do not change the cost.

    python benchmarks/finetuning.py --threads 2 --rounds 9

Contenders:

- plain: forward, cross-entropy, backward and SGD of the network as a user trains it;
- shared: the same with the losses of all N exits, shared heads with batch-norm statistics of their own;
- separate: the same with a head and projections for every exit;
- plain bf16, shared bf16: the first two in bfloat16 autocast, as all of them are on a GPU.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.families import preact
from resprune.records import Architecture, Heads, Origin, Preprocessing, Recipe
from resprune.stage_cost import stage_cost
from resprune.training.student import Student

_CIFAR = {
    "names": "akamaster",
    "block": "basic",
    "stem": 16,
    "widths": [16, 32, 64],
    "in_channels": 3,
    "classes": 10,
}
NETWORKS = {
    "CIFAR ResNet, 27 blocks, option A": Architecture(
        "cifar-resnet", "resnet56", ("b" * 9,) * 3, _CIFAR | {"shortcut": "A", "padding": "centred"}
    ),
    "CIFAR ResNet, 27 blocks, option B": Architecture(
        "cifar-resnet", "resnet56", ("b" * 9,) * 3, _CIFAR | {"shortcut": "B"}
    ),
    "pre-activation, 27 blocks in 3 stages": preact.architecture(
        "standard", [9, 9, 9], [16, 32, 64], in_channels=3, classes=10
    ),
    "pre-activation, 27 blocks of 64 filters": preact.architecture(
        "homogeneous", [27], [64], in_channels=3, classes=10
    ),
}
CONTENDERS: dict[str, Heads | None] = {
    "plain": None,
    "shared": "shared",
    "separate": "separate",
    "plain bf16": None,
    "shared bf16": "shared",
}
RECIPE = Recipe(gamma=0.02)


def make_step(contender: str, architecture: Architecture, batch: int, device: str) -> Callable[[], Tensor]:
    """Return a function that takes one training step and gives the loss."""
    torch.manual_seed(0)
    network = families.build(architecture, device="cpu").requires_grad_(False)
    recipe = Preprocessing(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
    chain: ResidualChain = assemble(network, architecture, recipe, Origin("random", "0" * 64, "none"))
    heads, bf16 = CONTENDERS[contender], device == "cuda" or "bf16" in contender
    student = Student(chain, heads, torch.device(device)).train()
    optimizer = torch.optim.SGD(student.groups(RECIPE), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)

    def step() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = student.network(images) if heads is None else student(images)[0]
        if heads is None:
            loss = F.cross_entropy(logits.float(), labels)
        else:
            loss = stage_cost(logits.float(), labels, RECIPE.gamma).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def timed(step: Callable[[], Tensor], repeats: int) -> float:
    """Return the seconds of some steps; reading the loss waits for the device."""
    started = time.perf_counter()
    for _ in range(repeats):
        loss = step()
    float(loss)  # pyright: ignore[reportPossiblyUnboundVariable]
    return (time.perf_counter() - started) / repeats


def memory(contender: str, name: str, options: argparse.Namespace) -> float:
    """Return the MiB that a contender's steps need, measured in a process of its own."""
    arguments = ["--memory-of", contender, "--only", name, "--batch", str(options.batch)]
    arguments += ["--threads", str(options.threads), "--device", options.device]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def _peak(contender: str, architecture: Architecture, options: argparse.Namespace) -> float:
    step = make_step(contender, architecture, options.batch, options.device)
    if options.device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    before = _resident("VmRSS")
    for _ in range(3):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Return a figure of this process's memory in MiB, from Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--after-others", action="store_true", help="time steps right after other contenders'")
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contenders = [name for name in CONTENDERS if options.device == "cpu" or "bf16" not in name]
    if options.memory_of:
        print(_peak(options.memory_of, NETWORKS[options.only], options))
        return
    where = f"{options.threads} threads of {platform.machine()}"
    if options.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, bf16"
    print(f"torch {torch.__version__}, {where}, batches of {options.batch}, {options.rounds} rounds")
    for name, architecture in NETWORKS.items():
        if options.only not in (None, name):
            continue
        steps = {key: make_step(key, architecture, options.batch, options.device) for key in contenders}
        times: dict[str, list[float]] = {key: [] for key in steps}
        for step in steps.values():
            timed(step, 2)
        for _ in range(options.rounds):
            for key, step in steps.items():
                if not options.after_others:
                    step()  # in training a step follows its like: caches and the allocator are in its state
                times[key].append(timed(step, 20 if options.device == "cuda" else 1))
        peaks = {key: memory(key, name, options) for key in contenders}
        print(f"\n{name}\n\n| contender | ms a step | times plain | images a second | peak MiB | times plain |")
        print("|---|---|---|---|---|---|")
        for key, taken in times.items():
            ratios = [a / b for a, b in zip(taken, times["plain"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            seconds, peak = statistics.median(taken), peaks[key]
            print(
                f"| {key} | {1e3 * seconds:.0f} | {middle:.2f} ({low:.2f} to {high:.2f})"
                f" | {options.batch / seconds:.0f} | {peak:.0f} | {peak / peaks['plain']:.2f} |"
            )


if __name__ == "__main__":
    main()
