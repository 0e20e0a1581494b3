"""Two networks' logits by hand: every figure of `likeness` against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from resprune.agreement import Triple, likeness
from resprune.errors import ArchitectureError, DataError
from resprune.records import Disagreement, Outcomes

FIRST = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [4, 0, 0], [0, 1, 0]])
SECOND = torch.tensor([[2.0, 0, 0], [0, 0, 2], [0, 0, 5], [0, 4, 0], [0, 0, 1]])
LABELS = torch.tensor([0, 1, 0, 1, 0])


def given(*, labels: Tensor | None = LABELS, size: int = 2) -> list[Triple]:
    """Batches whose images are the rows' numbers."""
    rows = torch.arange(len(FIRST)).split(size)
    return [(own, own, None if labels is None else labels[own]) for own in rows]


def first(rows: Tensor) -> Tensor:
    return FIRST[rows]


def second(rows: Tensor) -> Tensor:
    return SECOND[rows]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_figure_by_hand(size: int) -> None:
    found = likeness(first, second, given(size=size), limit=10)
    p, q = FIRST.double().softmax(1), SECOND.double().softmax(1)
    assert (found.samples, found.agreement, found.differing) == (5, 2 / 5, 3)
    assert (found.max_abs_difference, found.max_rel_difference) == (4.0, 4 / 5)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum() / 5))
    assert found.outcomes == Outcomes(both=1, only_first=1, only_second=1, neither=2)
    assert (found.first.accuracy, found.second.accuracy) == (2 / 5, 2 / 5)
    losses = -p.log()[torch.arange(5), LABELS]
    assert found.first.loss == pytest.approx(float(losses.mean()))
    added = -q.log()[torch.arange(5), LABELS] - losses
    assert found.loss_deviation == pytest.approx(float(added.std()))
    assert found.disagreements == (
        Disagreement(1, "", 1, 1, 2),
        Disagreement(3, "", 1, 0, 1),
        Disagreement(4, "", 0, 1, 2),
    )


def test_a_limit_cuts_the_list_and_not_the_count() -> None:
    found = likeness(first, second, given(), limit=2)
    assert [own.index for own in found.disagreements] == [1, 3]
    assert found.differing == 3
    assert likeness(first, second, given(), limit=0).disagreements == ()


def test_without_labels_there_is_no_right_and_wrong() -> None:
    found = likeness(first, second, given(labels=None), limit=10)
    assert found.outcomes is None
    assert (found.first.accuracy, found.second.loss, found.loss_deviation) == (None, None, None)
    assert [own.label for own in found.disagreements] == [None] * 3
    assert found.agreement == 2 / 5


def test_a_network_is_like_itself() -> None:
    found = likeness(first, first, given(), limit=10)
    assert (found.agreement, found.max_abs_difference, found.divergence) == (1.0, 0.0, 0.0)
    assert found.outcomes == Outcomes(both=2, only_first=0, only_second=0, neither=3)


def test_networks_that_say_nothing_do_not_differ() -> None:
    found = likeness(lambda x: torch.zeros(len(x), 3), lambda x: torch.zeros(len(x), 3), given(), limit=1)
    assert (found.max_abs_difference, found.max_rel_difference) == (0.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ArchitectureError, match="not finite"):
        likeness(first, lambda rows: SECOND[rows] * value, given(), limit=1)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        likeness(first, second, [], limit=1)


def test_progress_is_told_of_every_batch() -> None:
    done: list[int] = []
    likeness(first, second, given(), limit=1, on_batch=done.append)
    assert done == [2, 2, 1]
