"""Made-up analyses for reports: what `resprune analyze --json` prints, without a network."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def analysis(stages: Sequence[int] = (2, 2, 3), *, seed: int = 0, labels: bool = True) -> dict[str, Any]:
    """Return a result of `analyze` whose figures are drawn by the seed; the last branch is exactly zero."""
    draw, depth = random.Random(seed), sum(stages)
    blocks = []
    for stage, count in enumerate(stages):
        for position in range(count):
            k = len(blocks)
            last = k == depth - 1
            blocks.append(
                {
                    "index": k,
                    "path": f"layer{stage + 1}.{position}",
                    "stage": stage,
                    "exit_accuracy": draw.random() if labels else None,
                    "exit_loss": 3 * draw.random() if labels else None,
                    "residual_norm": 0.0 if last else draw.random(),
                    "residual_norm_relative": 0.0 if last else draw.random() / 10,
                    "parameter_norm": 10 * draw.random(),
                    "drop_change_relative": 0.0 if last else draw.random(),
                    "drop_agreement": draw.random(),
                    "macs": 1000 + k,
                    "parameters": 100 + k,
                }
            )
    return {
        "schema": "resprune/analyze/1",
        "version": "0.1.0",
        "checkpoint": {
            "path": f"net{seed}.pth",
            "sha256": "0" * 64,
            "family": "cifar-resnet",
            "architecture": "resnet",
            "blocks": depth,
            "parameters": 12345,
            "macs": 67890,
        },
        "data": {"spec": "images", "split": "validation", "samples": 100},
        "final": {
            "accuracy": 0.9 if labels else None,
            "loss": 0.3 if labels else None,
            "logits_norm": 4.0,
        },
        "blocks": blocks,
        "tolerance": 1e-3,
        "suggested_depth": max(depth - 1, 0),
    }


def classwise(content: dict[str, Any], classes: int, *, names: bool = True, seed: int = 0) -> dict[str, Any]:
    """Return a result with accuracies of classes, of four images each; the last class has no images."""
    draw, exits = random.Random(seed), len(content["blocks"]) + 1
    rows = [[draw.randrange(5) / 4 for _ in range(classes - 1)] + [None] for _ in range(exits)]
    found = {"counts": [4] * (classes - 1) + [0], "accuracy": rows}
    return content | {"classwise": found | {"names": [f"kind {i}" for i in range(classes)] if names else None}}


def frontier(blocks: int = 5, *, seed: int = 0, latency: bool = True, labels: bool = True) -> dict[str, Any]:
    """Return a result of `prune --frontier` in which blocks go from the end."""
    draw = random.Random(seed)

    def figures() -> dict[str, Any]:
        accuracy, loss = (draw.random(), draw.random()) if labels else (None, None)
        return {"accuracy": accuracy, "loss": loss, "divergence": draw.random()}

    def timing(gone: int) -> dict[str, Any]:
        median = 3.0 - 1.25 * gone / blocks
        return {"median": median, "iqr": 0.125, "quartiles": [median - 0.025, median + 0.1]}

    points = [
        {
            "removed": list(range(blocks - gone, blocks)),
            "blocks": blocks - gone,
            "macs": 1_000_000 * (2 + blocks - gone),
            "parameters": 1000 * (2 + blocks - gone),
            "latency_ms": timing(gone) if latency else None,
            "raw": figures(),
            "recovered": figures(),
        }
        for gone in range(blocks)
    ]
    whole = analysis((blocks,), seed=seed)
    head = {key: whole[key] for key in ("version", "checkpoint", "data")}
    return {"schema": "resprune/frontier/1", **head, "frontier": points}


def bounds(content: dict[str, Any]) -> dict[str, Any]:
    """Return a result with a section of bounds."""
    first, second = {"J": 0.5, "J_bar": 0.75, "gap": 0.25}, {"L_avg": 0.5, "L_bar_avg": 1.5, "gap": 1.0}
    terms = {"gamma": 0.02, "lambda": 1e-4, "L_bar": 0.125, "bound_1": first, "bound_2": second}
    return content | {"bounds": {"sub": {"path": "sub.pth", "blocks": 2}, **terms}}


def write(path: Path, content: Any) -> Path:
    """Write a result as a file."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
