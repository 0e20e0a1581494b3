"""The shared checkpoints on all CIFAR-10 test images; skipped where they are not beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CIFAR, SHARED, needs_shared

import resprune

pytestmark = needs_shared(SHARED / "checkpoints")


def checkpoint(name: str) -> Path:
    return SHARED / "checkpoints" / f"{name}-cifar10.th"


@pytest.mark.parametrize(
    ("name", "accuracy", "depth"),
    [
        ("resnet20", 0.9173, 9),
        pytest.param("resnet32", 0.9263, 15, marks=pytest.mark.exhaustive),
    ],
)
def test_published_accuracy(name: str, accuracy: float, depth: int) -> None:
    analysis = resprune.analyze(resprune.load(checkpoint(name)), CIFAR, split="test", drops=False)
    assert analysis.trajectory.final.samples == 10_000
    assert analysis.trajectory.final.accuracy == accuracy
    assert analysis.suggested_depth == analysis.trajectory.depth == depth
    # Trained the standard way: the early exits are about chance although early residuals are small.
    first = analysis.trajectory.rows[0]
    assert first.exit_accuracy is not None
    assert first.exit_accuracy < 0.2
    assert first.residual_norm_relative < 0.1


def test_pruned_equals_its_exit_on_real_images(tmp_path: Path) -> None:
    chain = resprune.load(checkpoint("resnet20"))
    analysis = resprune.analyze(chain, CIFAR, split="test", samples=500, drops=False)
    plan = resprune.select(depth=7, blocks=9)
    pruned = resprune.prune(chain, plan, CIFAR, split="test", samples=500, recover=False)
    assert pruned.outcome.after.accuracy == analysis.trajectory.rows[7].exit_accuracy
    resprune.save(pruned, tmp_path / "out")
    evaluation, data = resprune.evaluate(resprune.load(tmp_path / "out"), CIFAR, samples=500)
    assert (data.split, data.samples) == ("test", 500)
    assert evaluation.accuracy == pruned.outcome.after.accuracy


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(resprune.ResPruneError, match="32x32 pixels, 3 channels; got 28x28 pixels, 1 channels"):
        resprune.analyze(resprune.load(checkpoint("resnet20")), SHARED / "data" / "mnist")
