"""What a pruned network gets back without training is kept where it helps, and only there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from test_surgery import removing
from torch import Tensor, nn

from resprune import recovery
from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError
from resprune.judging import Judge
from resprune.norms import norms_behind, re_estimate
from resprune.records import DataSummary, PrunePlan
from resprune.recovery import Recoverer
from resprune.surgery import remove_blocks
from resprune.trajectory import Batch, OnBatch

NAME = "cifar option A"


@pytest.mark.parametrize("better", ["re_estimate", "match"])
def test_the_better_statistics_are_kept(better: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = trained()
    nothing_lost = chain.duplicate()
    monkeypatch.setattr(recovery, better, lambda *given, **how: nothing_lost)
    _, steps = recover(chain, 1)
    assert (steps[0][1].kind, steps[0][1].kept, steps[0][1].after) == (recovery.STATISTICS, True, 0.0)


@dataclass(frozen=True, eq=False)
class Images:
    """Stands for `Batches` of random images."""

    images: Tensor
    batch_size: int

    @property
    def source(self) -> range:
        return range(len(self.images))

    @property
    def summary(self) -> DataSummary:
        return DataSummary("images", "train", len(self.images))

    def divide(self, first: int, seed: int) -> tuple[Images, Images]:
        return Images(self.images[:first], first), Images(self.images[first:], self.batch_size)

    def drawn(self, count: int, seed: int) -> Images:
        return Images(self.images[:count], self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return ((images, None) for images in self.images.split(self.batch_size))


def quiet(description: str, images: int) -> AbstractContextManager[OnBatch]:
    return nullcontext(lambda done: None)


def test_divergence_follows_its_formula() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    pruned, images = remove_blocks(chain, removing(chain, 1)), Images(make_images(chain, 5), 2)
    judge = Judge(chain, images)  # pyright: ignore
    lost = judge.divergence(pruned)
    assert lost == pytest.approx(divergence(chain, pruned, images), rel=1e-4)
    assert (judge(pruned).divergence, judge.divergence(chain)) == (lost, 0)
    nn.init.constant_(pruned.network.get_parameter("linear.weight"), float("nan"))
    assert math.isnan(judge.divergence(pruned))
    with pytest.raises(ArchitectureError, match="the logits are not finite"):
        judge(pruned)


def recover(chain: ResidualChain, *removed: int, count: int = 60, size: int = 12):
    plan = removing(chain, *removed)
    pruned = remove_blocks(chain, plan)
    images = Images(make_images(chain, count, seed=3), size)
    return pruned, Recoverer(chain, images, 0, quiet).recover(pruned, plan)  # pyright: ignore


def trained() -> ResidualChain:
    """Return a network whose statistics are those of its inputs, as training leaves them."""
    chain = make_chain(ARCHITECTURES[NAME])
    return re_estimate(chain, [(images, None) for images in make_images(chain, 128, seed=5).split(32)])


def test_what_helps_is_kept() -> None:
    chain = make_chain(ARCHITECTURES["preact standard"])
    norm = chain.network.get_submodule(chain.blocks[3].path).bn2
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():  # the branch gives the same for every image: the norms behind it can take that on
        norm.weight.zero_()
        norm.bias.fill_(1)
    chain = re_estimate(chain, [(images, None) for images in make_images(chain, 128, seed=5).split(32)])
    pruned, ((result, record), (best, other)) = recover(chain, 3)
    assert (record.kind, record.kept, record.held_out, record.images) == (recovery.STATISTICS, True, 12, 48)
    assert record.after < 0.5 * record.before
    held_out = [(make_images(chain, 60, seed=3)[:12], None)]
    assert divergence(chain, pruned, held_out) == pytest.approx(record.before, rel=1e-4)
    assert divergence(chain, result, held_out) == pytest.approx(record.after, rel=1e-4)
    assert other.before == record.after
    assert (other.kind, other.kept) == (recovery.COMPENSATION, best is not result)
    assert divergence(chain, best, held_out) == pytest.approx(min(other.before, other.after), rel=1e-4)


def test_what_does_not_help_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = trained()
    worse = make_chain(ARCHITECTURES[NAME], seed=8)
    for figure in (worse, make_chain(ARCHITECTURES[NAME])):
        if figure is not worse:
            nn.init.constant_(figure.network.get_parameter("linear.weight"), float("nan"))
        for name in ("re_estimate", "match", "compensate"):
            monkeypatch.setattr(recovery, name, lambda *given, figure=figure, **how: figure)
        pruned, steps = recover(chain, 1)
        assert [(record.kind, record.kept, result is pruned) for result, record in steps] == [
            (recovery.STATISTICS, False, True),
            (recovery.COMPENSATION, False, True),
        ]


def test_a_network_with_logits_again_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = trained()
    monkeypatch.setattr(recovery, "compensate", lambda *given, **how: broken)
    broken = make_chain(ARCHITECTURES[NAME])
    nn.init.constant_(broken.network.get_parameter("linear.weight"), float("nan"))
    plan = removing(chain, 1)
    pruned = remove_blocks(chain, plan)
    variance = norms_behind(pruned, 2)[-1].running_var
    assert variance is not None
    variance.fill_(float("nan"))
    images = Images(make_images(chain, 60, seed=3), 12)
    (better, record), (best, other) = Recoverer(chain, images, 0, quiet).recover(pruned, plan)  # pyright: ignore
    assert math.isnan(record.before)
    assert record.kept
    assert math.isfinite(record.after)
    assert (other.kept, best is better) == (False, True)


def test_compensation_is_done_on_as_many_images_as_there_is_memory_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chain, compensate = trained(), recovery.compensate

    def limited(chain: ResidualChain, cut: ResidualChain, plan: PrunePlan, seen: Images, **how: Any) -> Any:
        if len(seen.source) > 12:
            raise MemoryError
        return compensate(chain, cut, plan, seen, **how)  # pyright: ignore

    monkeypatch.setattr(recovery, "compensate", limited)
    _, (_, (_, record)) = recover(chain, 1)
    assert (record.kind, record.images) == (recovery.COMPENSATION, 12)
    assert "compensate: out of memory with the states of 48 images, trying 24" in caplog.messages


def test_where_nothing_is_lost_nothing_is_done() -> None:
    chain = trained()
    with torch.no_grad():
        for layer in chain.blocks[7].branch:
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.weight.zero_()
                if layer.bias is not None:
                    layer.bias.zero_()
    assert recover(chain, 7)[1] == []
    for removed, count in (((), 60), ((1,), 2)):
        assert recover(chain, *removed, count=count)[1] == []
