"""What gamma and the teacher do to a real checkpoint: two epochs on CIFAR-10.

Every variant is a run of ``resprune finetune``; those that are done already below ``--out`` are only read. All
figures are of the 5,000 training images that were held out. The checkpoint was trained on all training images,
so its own 99.96 % on them is far too good; the test images are read once, for the variant of the first row.

    python benchmarks/stage_cost.py --checkpoint resnet32-cifar10.th --data cifar10 --out runs
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

VARIANTS: dict[str, tuple[str, ...]] = {
    "gamma 0.1": ("--gamma", "0.1"),
    "gamma 0.02": ("--gamma", "0.02"),
    "gamma 0.1, no teacher": ("--gamma", "0.1", "--teacher-weight", "0"),
}


def resprune(*arguments: object) -> str:
    """Run a command and return what it printed."""
    command = [sys.executable, "-m", "resprune", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def percent(fraction: float) -> str:
    """Return a fraction as a figure of the table."""
    return f"{100 * fraction:.2f}"


def main() -> None:
    """Train the variants that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=VARIANTS, action="append")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    common = ("--data", options.data, "--threads", options.threads)
    print("| two epochs with | final | exits | last stage's exits |")
    print("|---|---|---|---|")
    for name in options.only or VARIANTS:
        out = options.out / name.replace(" ", "-").replace(",", "")
        fixed = ("--epochs", 2, "--warm-up", 0.1, "--device", "cpu", "--out", out, "--resume", "--json")
        resprune("finetune", options.checkpoint, *common, *fixed, *VARIANTS[name])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for label, line in (("nothing (as it was)", lines[0]), (name, lines[-1])):
            if name in (label, "gamma 0.1"):
                exits = [own["accuracy"] for own in line["exits"]]
                figures = [line["final"]["accuracy"], sum(exits) / len(exits), line["last_stage_accuracy"]]
                print(f"| {label} | {' | '.join(map(percent, figures))} |", flush=True)
    first = options.out / "gamma-0.1"
    analysis = json.loads(resprune("analyze", first, *common, "--split", "test", "--no-drops", "--json"))
    last = [
        row["exit_accuracy"] for row in analysis["blocks"] if row["stage"] == analysis["blocks"][-1]["stage"]
    ]
    print(
        f"\nOn the {analysis['data']['samples']:,} test images, gamma 0.1: final"
        f" {percent(analysis['final']['accuracy'])} %, last stage's exits {percent(sum(last) / len(last))} %."
    )


if __name__ == "__main__":
    main()
