"""What pruning for a budget gives, step by step, and what as many blocks removed at random give.

The plan, the recovery and the healing see training images; the test images are looked at once, for the table.

    python benchmarks/pruning.py resnet32-cifar10.th --data cifar10 --target-macs 0.66 --heal 2 --seeds 3
    python benchmarks/pruning.py resnet32-cifar10.th --data cifar10 --target-macs 0.66 --heal 0 --by-divergence
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch

import resprune
from resprune.records import RECIPES, Evaluation


def main() -> None:
    """Print one row for each step, and one for each network of the control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--target-macs", type=float, required=True)
    parser.add_argument("--heal", type=int, default=2, help="epochs; 0 for none")
    parser.add_argument("--seeds", type=int, default=3, help="of the random control")
    parser.add_argument(
        "--by-divergence", action="store_true", help="choose blocks by what is left before any compensation"
    )
    parser.add_argument(
        "--rivals", type=int, default=3, help="plans with one block exchanged, healed for a while"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the healing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chain = resprune.load(options.checkpoint, device=options.device)
    recipe = replace(RECIPES["heal"], epochs=max(1, options.heal), precision=options.precision)
    budget = resprune.Budget(macs=options.target_macs)
    heal = recipe if options.heal else None
    choice = resprune.choose_for(
        chain,
        options.data,
        budget,
        recover=not options.by_divergence,
        heal=heal,
        heal_rivals=options.rivals,
        device=options.device,
        tell=lambda candidate: print(f"# {candidate.plan.rivals[-1]}", flush=True),
    )
    outcome = resprune.prune(
        chain,
        choice,
        options.data,
        heal=heal,
        controls=("random",) if options.seeds else (),
        control_seeds=max(1, options.seeds),
        device=options.device,
        on_epoch=lambda row: print(f"# epoch {row.epoch}, {row.seconds:.0f} s", flush=True),
    ).outcome
    print(f"\n{options.checkpoint}: {len(choice.plan.removed)} of {chain.depth} blocks, {choice.plan.removed}")
    saved = [
        1 - getattr(outcome.result, size) / getattr(outcome.origin, size) for size in ("macs", "parameters")
    ]
    print(f"{100 * saved[0]:.1f} % of the MACs and {100 * saved[1]:.1f} % of the parameters less\n")
    print("| | test accuracy % |\n|---|---|")
    print(f"| before | {_percent(outcome.before)} |")
    print(f"| right after the cut | {_percent(outcome.raw)} |")
    for tried in outcome.recovered:
        print(f"| {tried.kind} | {_percent(tried.figures) if tried.figures else 'not kept'} |")
    for own in outcome.controls:
        removed = ", ".join(map(str, own.removed))
        less = f"{100 * (1 - own.macs / outcome.origin.macs):.1f} % of the MACs"
        print(f"| at random, seed {own.seed}: {removed} ({less}) | {_percent(own.after)} |")
    drawn = [100 * (own.after.accuracy or 0) for own in outcome.controls]
    if len(drawn) > 1:
        spread = f"{statistics.mean(drawn):.2f}, standard deviation {statistics.stdev(drawn):.2f}"
        print(f"| all of those | {spread} |")


def _percent(figures: Evaluation) -> str:
    return f"{100 * (figures.accuracy or 0):.2f}"


if __name__ == "__main__":
    main()
