"""The commands ``bench`` and ``compare``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from resprune.cli import idle, options, reporting, shell
from resprune.cli.opening import Open, opens_a_checkpoint


@opens_a_checkpoint
def bench(
    opened: Callable[[], Open],
    against: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Measure another network in the same rounds.", show_default=False),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="NAME", help="eager, compiled or onnxruntime; ONNX files need none.")
    ] = "eager",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images a call.")] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", help="Measure for so long, 10 rounds at least.")] = 3.0,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Measure so many rounds instead.", show_default=False),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--contiguous",
            help="Memory format of the images [channels last].",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure latency, throughput and peak memory of a checkpoint, a folder or an ONNX file, on noise."""
    with shell.command(debug, threads=threads):
        idle.refuse({"seconds": (rounds is not None, "says how long to measure, and so does --rounds")})
        from resprune import comparing
        from resprune.report import comparing as tables
        from resprune.report.results import pairs

        read = opened()
        where = comparing.common_device(device, mode, read.checkpoint, against)
        network = read(opener=comparing.open_network, device=where)
        other = None if against is None else read(source=against, opener=comparing.open_network, device=where)
        outcome = comparing.bench(
            network,
            other,
            mode=mode,
            batch_size=batch_size,
            rounds=rounds,
            seconds=seconds,
            channels_last=channels_last,
            seed=seed,
        )
        if as_json:
            shell.print_json(pairs.bench(outcome) | reporting.made(seed))
        else:
            shell.show(tables.bench(outcome))


@opens_a_checkpoint
def compare(
    opened: Callable[[], Open],
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Another checkpoint or ONNX file.", show_default=False)
    ],
    data: options.Data = None,
    split: options.Split = None,
    samples: options.Samples = None,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Compare what two networks say of the same images; without any, of seeded noise."""
    with shell.command(debug, threads=threads):
        from resprune import comparing
        from resprune.report import comparing as tables
        from resprune.report.results import pairs

        read = opened()
        where = comparing.common_device(device, "", read.checkpoint, other)
        comparison = comparing.compare(
            read(opener=comparing.open_network, device=where),
            read(source=other, opener=comparing.open_network, device=where),
            data,
            progress=shell.progress,
            split=split,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )
        if as_json:
            shell.print_json(pairs.compare(comparison) | reporting.made(seed))
        else:
            shell.show(tables.compare(comparison))
