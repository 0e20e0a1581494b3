"""The command ``export``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resprune.cli import options, reporting, shell
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.errors import UsageError


class Target(StrEnum):
    """Formats, as `resprune.exporting.targets` knows them; here so that ``--help`` imports no torch."""

    TIMM = "timm"
    TORCHVISION = "torchvision"
    HF = "hf"
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    SAFETENSORS = "safetensors"


@opens_a_checkpoint
def export(
    opened: Callable[[], Open],
    to: Annotated[
        Target,
        typer.Option("--format", help="What is to load it.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Folder (timm, hf, safetensors), or file: .safetensors (torchvision), .onnx,"
            " .pt2 (torch-export).",
            show_default=False,
        ),
    ],
    zeroed: Annotated[
        bool,
        typer.Option(
            "--zeroed",
            help="Compatible form: missing blocks are whole again, their branches zero; the cost is told.",
        ),
    ] = False,
    fold_bn: Annotated[
        bool, typer.Option("--fold-bn", help="Fold batch norms into convolutions (onnx, torch-export).")
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Class names for the metadata, one a line.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: options.Json = False,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint for timm, torchvision, Hugging Face, ONNX or torch.export, and read it back."""
    with shell.command(debug, threads=threads, outputs=(out,)):
        from resprune.exporting import formats, targets
        from resprune.report import exporting as wording
        from resprune.report.results import outputs

        targets.find(to.value)
        formats.check_place(out, to.value, force, fold_bn)
        names = () if class_names is None else _lines(class_names)
        outcome = formats.export(
            opened()(device="cpu"),
            out,
            to.value,
            zeroed=zeroed,
            fold_bn=fold_bn,
            class_names=names,
            force=force,
            seed=seed,
        )
        if as_json:
            shell.print_json(outputs.export(outcome) | reporting.made(seed))
        else:
            shell.show(wording.summary(outcome))
            shell.print_text(f"\n{wording.loading(outcome, elsewhere=True)}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot be read as text ({getattr(error, 'strerror', None) or error})",
            where=path,
            hint="--class-names takes a text file with one name a line",
        ) from error
