"""The command ``check``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resprune.cli import idle, options, reporting, shell
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.cli.options import absent
from resprune.errors import ResPruneError, UsageError
from resprune.records import Limits

if TYPE_CHECKING:
    from resprune.records import CheckOutcome

_COUNTS = {"k": 10**3, "M": 10**6, "G": 10**9}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    GITHUB = "github"
    JUNIT = "junit"


@opens_a_checkpoint
def check(
    opened: Callable[[], Open],
    against: Annotated[
        str | None, absent("The network to compare with: as it was before, or an ONNX file.", "BASE")
    ] = None,
    max_drop: Annotated[
        float | None, absent("Points of accuracy that may be lost against BASE.", "POINTS")
    ] = None,
    min_accuracy: Annotated[float | None, absent("Accuracy in per cent, such as 90.", "PERCENT")] = None,
    max_loss_increase: Annotated[
        float | None, absent("Loss that may be added to BASE's, in nats.", "NATS")
    ] = None,
    min_agreement: Annotated[
        float | None, absent("Images with BASE's top class, in per cent, such as 98.", "PERCENT")
    ] = None,
    max_macs: Annotated[
        str | None, absent("Multiply-accumulates: 500M, 1.2G; up to 1: fraction of BASE's.", "N")
    ] = None,
    max_params: Annotated[
        str | None, absent("Parameters: 750k, 11M; up to 1: fraction of BASE's.", "N")
    ] = None,
    max_file_size: Annotated[
        str | None, absent("Size of the weights on disk: bytes, or 500kB, 4.5MB, 4MiB.", "SIZE")
    ] = None,
    min_speedup: Annotated[
        float | None, absent("How many times as fast as BASE, measured; wall time is noisy.", "F")
    ] = None,
    max_residual_tail: Annotated[
        float | None, absent("Relative residual norm that no block from --tail-from on may exceed.", "T")
    ] = None,
    tail_from: Annotated[int | None, absent("First block of the tail, from 0.", "M", min=0)] = None,
    confidence: Annotated[
        float, typer.Option(metavar="C", help="Confidence of the intervals, from 0.5 to below 1.")
    ] = 0.95,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail on any figure beyond its limit, also where it is within noise."),
    ] = False,
    hashes: Annotated[
        bool, typer.Option(help="Compare a folder of resprune's with the hashes in its report.")
    ] = True,
    data: options.Data = None,
    split: options.Split = None,
    samples: options.Samples = None,
    format_: Annotated[
        Format, typer.Option("--format", help="text; github: annotations and step summary; junit: XML.")
    ] = Format.TEXT,
    markdown: Annotated[Path | None, absent("Also write a Markdown table.", "FILE")] = None,
    metrics: Annotated[Path | None, absent("Also write the figures as flat JSON.", "FILE")] = None,
    as_json: options.Json = False,
    latency_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images at once that --min-speedup is measured with.")
    ] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", help="Measure --min-speedup for so long.")] = 3.0,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Hold a checkpoint, a folder or an ONNX file against limits: exit status 0 if all hold, 1 if one fails.

    3 where one could not be measured. A folder of resprune's is also held against the hashes in its report.
    """
    with shell.command(debug, threads=threads, outputs=(markdown, metrics)), _annotated(format_):
        limits = Limits(
            max_drop=max_drop,
            min_accuracy=_fraction("--min-accuracy", min_accuracy),
            max_loss_increase=max_loss_increase,
            min_agreement=_fraction("--min-agreement", min_agreement),
            max_macs=_count("--max-macs", max_macs),
            max_params=_count("--max-params", max_params),
            max_file_size=_bytes(max_file_size),
            min_speedup=min_speedup,
            max_residual_tail=max_residual_tail,
            tail_from=tail_from,
        )
        if as_json and format_ is not Format.TEXT:
            raise UsageError(f"--json and --format {format_} both say what to print", hint="give one of them")
        reporting.check_files((markdown, ".md"), (metrics, ".json"))
        from resprune import checking, comparing, gate

        read = opened()
        images = data is not None or "demo" in (read.checkpoint, against)
        gate.check_limits(limits, against=against is not None, images=images)
        _refuse_idle(images=images, timed=min_speedup is not None)
        where = comparing.common_device(device, "", read.checkpoint, against)
        candidate = read(opener=comparing.open_network, device=where)
        base = None if against is None else read(source=against, opener=comparing.open_network, device=where)
        outcome = checking.check(
            candidate,
            limits,
            base,
            data,
            confidence=confidence,
            strict=strict,
            hashes=hashes,
            latency_batch=latency_batch,
            seconds=seconds,
            progress=shell.progress,
            split=split,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )
        _print(outcome, "json" if as_json else format_, reporting.made(seed))
        _write(outcome, markdown, metrics)
        if outcome.exit_status:
            raise typer.Exit(outcome.exit_status)


def _refuse_idle(*, images: bool, timed: bool) -> None:
    """Refuse options that were typed and would do nothing."""
    unread, untimed = (not images, "is of images, and none are named"), (not timed, "is of --min-speedup")
    idle.refuse({"split": unread, "samples": unread, "batch_size": unread})
    idle.refuse({"latency_batch": untimed, "seconds": untimed})


def _print(outcome: CheckOutcome, form: str, made: dict[str, Any]) -> None:
    from resprune.report import checking as wording
    from resprune.report import gates
    from resprune.report.results import pairs

    match form:
        case "json":
            shell.print_json(pairs.check(outcome) | made)
        case Format.JUNIT:
            shell.print_text(gates.junit(outcome))
        case Format.GITHUB:
            shell.print_text(gates.github(outcome))
            _summarise(wording.markdown(outcome))
        case _:
            shell.show(wording.table(outcome))


def _write(outcome: CheckOutcome, markdown: Path | None, metrics: Path | None) -> None:
    from resprune.placing import write_text
    from resprune.report import checking as wording
    from resprune.report import gates

    if markdown is not None:
        write_text(markdown, wording.markdown(outcome))
    if metrics is not None:
        write_text(metrics, json.dumps(gates.metrics(outcome), indent=2, allow_nan=False) + "\n")


def _summarise(text: str) -> None:
    """Append to the summary of a step, where GitHub offers one; the verdict does not depend on it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as summary:
            summary.write(text + "\n")
    except OSError as error:
        shell.say(f"Note: no step summary, {path} cannot be written ({error.strerror}).")


@contextmanager
def _annotated(form: Format) -> Iterator[None]:
    """Where nothing can be checked, tell GitHub as well."""
    try:
        yield
    except ResPruneError as error:
        if form is Format.GITHUB:
            from resprune.report import gates

            shell.print_text(gates.annotation("error", "resprune check", str(error)))
        raise


def _fraction(flag: str, per_cent: float | None) -> float | None:
    """Return per cent as a fraction of one; values up to 1 are taken for a fraction by mistake."""
    if per_cent is None:
        return None
    if not 1 < per_cent <= 100:
        hint = f"{flag} {100 * per_cent:g} for {100 * per_cent:g} %" if 0 < per_cent <= 1 else f"{flag} 90"
        raise UsageError(f"{flag} is in per cent, above 1 and at most 100, got {per_cent:g}", hint=hint)
    # 90.15 / 100 is not the number next to 0.9015, which 1803 of 2,000 images are.
    return float(Decimal(str(per_cent)) / 100)


def _count(flag: str, text: str | None) -> float | None:
    """Read a count, with a suffix or not, or a fraction of BASE's."""
    if text is None:
        return None
    value = _scaled(text, _COUNTS)
    if value is None or not (0 < value <= 1 or value == value.to_integral_value() > 1):
        raise UsageError(
            f"{flag} {text} is neither a count nor a fraction of BASE's",
            hint=f"for example {flag} 500M, or {flag} 0.7 with --against",
        )
    return float(value)


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    value = _scaled(text.upper(), _BYTES)
    if value is None or value < 1:
        raise UsageError(f"--max-file-size {text} is no size", hint="for example 500kB, 4.5MB or 4MiB")
    return int(value)


def _scaled(text: str, units: dict[str, int]) -> Decimal | None:
    """Return a number times its unit, the longest that fits; None for what is no finite number."""
    unit = max((unit for unit in units if text.endswith(unit)), key=len, default="")
    try:
        value = Decimal(text.removesuffix(unit).strip()) * units.get(unit, 1)
    except InvalidOperation:
        return None
    return value if value.is_finite() and value < Decimal("1e18") else None
