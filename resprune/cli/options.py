"""The options that commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def absent(text: str, metavar: str, **others: Any) -> Any:
    """Return an option that is absent unless given."""
    return typer.Option(metavar=metavar, help=text, show_default=False, **others)


Data = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="Images: a folder of class folders (with or without train/, val/, test/), a flat folder,"
        " Parquet in the Hugging Face layout, torch/NAME:FOLDER, hfds/NAME, or wds/FOLDER."
        " The demo brings its own.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split of the data to read.", show_default=False)
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Read N images only, drawn by the seed.", show_default=False),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Images a batch [default: 128 small or 32 large].", show_default=False
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, metavar="N", help="CPU threads [default: torch's].", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Of everything drawn.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Remove the blocks at the end whose relative residual norms are all at most T.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder to write the pruned model to.", show_default=False)
]
Sub = Annotated[
    str | None,
    typer.Option(
        metavar="CKPT", help="A SubResNet that was trained by itself, for --bounds.", show_default=False
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        help="Weight of the exits' losses, for --bounds [default: of the run that made CKPT, else 0.02].",
        show_default=False,
    ),
]
BranchDecay = Annotated[
    float | None,
    typer.Option(
        "--lambda",
        metavar="L",
        help="Weight decay on the branches, for --bounds [default: of the run that made CKPT, else 0.0001].",
        show_default=False,
    ),
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML page.", show_default=False)
]
Plots = Annotated[
    Path | None,
    typer.Option("--plots", metavar="DIR", help="Write the plots as SVG and PNG.", show_default=False),
]
ForceReport = Annotated[bool, typer.Option("--force", help="Replace an existing page or folder of plots.")]
