"""`check`: whether a network keeps to limits, every one of them measured.

base, candidate = load("resnet20.th"), load("resnet20-pruned")
outcome = check(candidate, Limits(max_drop=0.5, max_macs=0.7), base, "cifar10/")
outcome.verdict, outcome.exit_status
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resprune import comparing, gate, pipeline
from resprune.chain import ResidualChain
from resprune.checkpoint import files_of
from resprune.data import TEST_FIRST
from resprune.errors import OutputError, ResPruneError, UsageError
from resprune.exporting import integrity
from resprune.gate import Rule
from resprune.latency import SECONDS
from resprune.reading import with_demo
from resprune.records import (
    CheckOutcome,
    Comparison,
    Condition,
    DataSummary,
    Evaluation,
    Limits,
    NetworkSummary,
    Subject,
)
from resprune.running import Network

_ONNX = "an ONNX file has no blocks to look at"


def check(
    candidate: Network,
    limits: Limits,
    against: Network | None = None,
    data: str | Path | None = None,
    *,
    confidence: float = 0.95,
    strict: bool = False,
    hashes: bool = True,
    latency_batch: int = 1,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: pipeline.Progress = pipeline.silent,
    **options: Any,
) -> CheckOutcome:
    """Measure what limits ask for and hold it against them; both networks see the images in one pass.

    Args:
        candidate: The network in question.
        limits: See `Limits`.
        against: What it is compared with: the network before it was made smaller.
        data: Images; the demo brings its own.
        confidence: Of the intervals.
        strict: Let figures decide by themselves, whatever their intervals; see `resprune.gate`.
        hashes: Where the candidate is a folder of resprune's, also compare its files with their hashes.
        latency_batch: Images in every call that a speedup is measured with.
        seconds: Measure a speedup for so long.
        seed: Of the draw of images, and of the noise that a speedup is measured on.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, samples, batch_size.

    Raises:
        UsageError: where nothing is asked, a condition lacks what it needs, or the networks cannot be compared.
        DataError: where images cannot be read.
    """
    rule = Rule(confidence, strict)
    data = with_demo(data, candidate, against)
    gate.check_limits(limits, against=against is not None, images=data is not None)
    verified = _hashes(candidate, rule) if hashes else None
    if not limits.named and verified is None:
        raise UsageError(
            "nothing to check: no condition is given, and there are no hashes to verify",
            where=candidate.origin.path,
            hint="for example --max-drop 0.5 --against CKPT --data SPEC, or --max-params 1M",
        )
    reading = {"order": TEST_FIRST, "seed": seed, "progress": progress} | options
    conditions = [] if verified is None else [verified]
    comparison = figures = summary = None
    if set(limits.of_images) - {"max_residual_tail"}:
        assert data is not None
        comparison, figures, summary = _classified(candidate, against, data, reading)
        conditions += _of_answers(limits, comparison, figures, rule)
    own, other = _subject(candidate), None if against is None else _subject(against)
    conditions += _of_sizes(limits, own, other, rule)
    if limits.min_speedup is not None:
        timed = comparing.bench(candidate, against, batch_size=latency_batch, seconds=seconds, seed=seed)
        conditions.append(gate.min_speedup(limits.min_speedup, timed, rule))
    if limits.max_residual_tail is not None:
        tail, seen = _tail(candidate, limits, data, reading, rule)
        conditions.append(tail)
        summary = summary or seen
    return CheckOutcome(
        candidate=own,
        against=other,
        data=summary,
        confidence=rule.confidence,
        strict=rule.strict,
        conditions=tuple(conditions),
        figures=figures,
        figures_against=None if comparison is None else comparison.likeness.first,
        outcomes=None if comparison is None else comparison.likeness.outcomes,
    )


def _classified(
    candidate: Network, against: Network | None, data: str | Path, reading: dict[str, Any]
) -> tuple[Comparison | None, Evaluation, DataSummary | None]:
    """Return how images are classified: beside the other network, in one pass, or by the candidate alone."""
    if against is not None:
        comparison = comparing.compare(against, candidate, data, limit=0, **reading)
        return comparison, comparison.likeness.second, comparison.data
    options = {name: value for name, value in reading.items() if name != "progress"}
    batches = pipeline.batches_for(candidate, data, **options)
    if not batches.labelled:
        summary = batches.summary
        return None, Evaluation(None, None, None, summary.samples), summary
    return None, *pipeline.evaluate(candidate, batches, progress=reading["progress"])


def _of_answers(
    limits: Limits, comparison: Comparison | None, figures: Evaluation, rule: Rule
) -> Iterator[Condition]:
    if comparison is not None and limits.max_drop is not None:
        yield gate.max_drop(limits.max_drop, comparison.likeness, rule)
    if limits.min_accuracy is not None:
        yield gate.min_accuracy(limits.min_accuracy, figures, rule)
    if comparison is not None and limits.max_loss_increase is not None:
        yield gate.max_loss_increase(limits.max_loss_increase, comparison.likeness, rule)
    if comparison is not None and limits.min_agreement is not None:
        yield gate.min_agreement(limits.min_agreement, comparison.likeness, rule)


def _of_sizes(limits: Limits, own: Subject, other: Subject | None, rule: Rule) -> Iterator[Condition]:
    for name, unit, key, limit in (
        ("max-macs", "MACs", "macs", limits.max_macs),
        ("max-params", "parameters", "parameters", limits.max_params),
    ):
        if limit is not None:
            yield gate.max_size(name, unit, limit, _count(own, key), _count(other, key), rule)
    if limits.max_file_size is not None:
        yield _file_size(limits.max_file_size, own, rule)


def _tail(
    candidate: Network, limits: Limits, data: str | Path | None, reading: dict[str, Any], rule: Rule
) -> tuple[Condition, DataSummary | None]:
    assert limits.max_residual_tail is not None
    assert limits.tail_from is not None
    if not isinstance(candidate, ResidualChain):
        why = gate.unmeasured("max-residual-tail", "relative norm", limits.max_residual_tail, _ONNX)
        return why, None
    analysis = pipeline.analyze(candidate, data, drops=False, **reading)
    norms = analysis.trajectory.residual_norms_relative
    return gate.max_residual_tail(limits.max_residual_tail, limits.tail_from, norms, rule), analysis.data


def _file_size(limit: int, own: Subject, rule: Rule) -> Condition:
    path = (own.origin if isinstance(own, NetworkSummary) else own).path
    try:
        files = files_of(path)
        size = sum(file.stat().st_size for file in files)
    except (OSError, ResPruneError) as error:
        return gate.unmeasured("max-file-size", "bytes", limit, f"no file to measure ({_reason(error)})")
    return rule.judge("max-file-size", "bytes", size, limit, detail=", ".join(file.name for file in files))


def _hashes(candidate: Network, rule: Rule) -> Condition | None:
    """Hold an output folder against the hashes in its report; None where there are none."""
    folder = Path(candidate.origin.path)
    if not folder.is_dir():
        return None
    try:
        files = integrity.recorded(folder)
        if files is None:
            return None
        changed = integrity.differing(folder, files)
    except (OSError, OutputError) as error:
        return gate.unmeasured("hashes", "files", 0, _reason(error))
    detail = ", ".join(changed) if changed else f"{', '.join(sorted(files))} as recorded"
    return rule.judge("hashes", "files", len(changed), 0, detail=detail)


def _reason(error: OSError | ResPruneError) -> str:
    return error.what if isinstance(error, ResPruneError) else error.strerror or str(error)


def _count(subject: Subject | None, key: str) -> int | None:
    return getattr(subject, key) if isinstance(subject, NetworkSummary) else None


def _subject(network: Network) -> Subject:
    return network.summary if isinstance(network, ResidualChain) else network.origin
