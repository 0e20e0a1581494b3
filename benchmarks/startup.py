"""Start-up time of ``resprune --help`` beside that of a Typer program with nothing in it.

Whole processes, in turn, round after round; the median ratio within a round is printed.

    python benchmarks/startup.py --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

EMPTY = "import typer\napp = typer.Typer()\n@app.command()\ndef main() -> None: pass\napp()"
COMMANDS = {
    "empty Typer program": [sys.executable, "-c", EMPTY, "--help"],
    "resprune --help": [str(Path(sys.executable).with_name("resprune")), "--help"],
}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    print("| command | ms | times the empty program |\n|---|---|---|")
    empty = times["empty Typer program"][1:]
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken[1:], empty, strict=True)]
        print(f"| {name} | {1e3 * statistics.median(taken[1:]):.0f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
