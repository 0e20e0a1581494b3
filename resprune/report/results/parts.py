"""What results have in common."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from resprune.records import DataSummary, Evaluation, NetworkSummary, Preprocessing, ReadBack, Remedy, Subject


def opening(command: str) -> dict[str, Any]:
    """Return what every result begins with."""
    return {"schema": f"resprune/{command}/1", "version": version("resprune")}


def head(command: str, subject: Subject, data: DataSummary | None = None) -> dict[str, Any]:
    """Return what every result of a network begins with."""
    found = opening(command) | {"checkpoint": network(subject)}
    return found if data is None else found | {"data": images(data)}


def network(subject: Subject) -> dict[str, Any]:
    """Return a network; of an ONNX file nothing but its name and hash is known."""
    origin = subject.origin if isinstance(subject, NetworkSummary) else subject
    known: dict[str, Any] = {"path": origin.path, "sha256": origin.sha256}
    if not isinstance(subject, NetworkSummary):
        return known | dict.fromkeys(("family", "architecture", "blocks", "parameters", "macs"))
    return known | {
        "family": subject.architecture.family,
        "architecture": subject.architecture.name,
        "blocks": subject.blocks,
        "parameters": subject.parameters,
        "macs": subject.macs,
    }


def images(data: DataSummary) -> dict[str, Any]:
    """Return which images were read."""
    summary: dict[str, Any] = {"spec": data.spec, "split": data.split, "samples": data.samples}
    if data.sha256:
        summary |= {"sha256": data.sha256, "sha256_of": data.sha256_of}
    own = data.preprocessing
    return summary if own is None else summary | {"preprocessing": recipe(own)}


def recipe(own: Preprocessing) -> dict[str, Any]:
    """Return how an image becomes the network's input."""
    return own.to_json() | {"source": own.source}


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return accuracy and loss."""
    return {"accuracy": evaluation.accuracy, "loss": evaluation.loss}


def size(summary: NetworkSummary) -> dict[str, Any]:
    """Return parameters and multiply-accumulates."""
    return {"parameters": summary.parameters, "macs": summary.macs}


def remedies(found: tuple[Remedy, ...]) -> dict[str, Any]:
    """Return what is added where the accuracy is that of a guess and other assumptions fit better."""
    return {"remedies": [asdict(remedy) for remedy in found]} if found else {}


def read_back(found: ReadBack | None) -> dict[str, Any]:
    """Return what is added about reading a folder back; None where it was not."""
    told = None if found is None else asdict(found) | {"readers": list(found.readers)}
    return {"read_back": told}
