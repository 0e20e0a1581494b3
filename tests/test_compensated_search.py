"""The search for blocks that fits while it tries, against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from test_folder import timm_s
from test_surgery import removing
from torch import Tensor

from resprune import refit
from resprune.chain import ResidualChain
from resprune.compensated_search import CUT, TRIAL_ROWS, CompensatedSearch
from resprune.lines import Line
from resprune.search import Search, Trial
from resprune.sensitivity import order_removals
from resprune.surgery import remove_blocks


def one_by_one(chain: ResidualChain, images: Tensor, removed: list[int]) -> ResidualChain:
    """Remove blocks in turn, fitting the part before each and all behind it, one convolution after another.

    Every other image is fitted on.
    """
    working, parts = chain.duplicate(), chain.parts
    positions = {part.path: i for i, part in enumerate(parts)}
    gone: set[int] = set()
    for own in (positions[chain.blocks[k].path] for k in removed):
        gone.add(own)
        left = [i for i in range(len(parts)) if i not in gone or not parts[i].step_is_trivial]
        lines = {i: Line.of(working.parts[i], bare=i in gone) for i in left}
        before = [i for i in left if i <= own]
        first = before[-1] if before and lines[before[-1]].can_be_fitted else own
        with torch.inference_mode():
            x, states = working.stem(images[::2]), [chain.stem(images[::2])]
            for part in parts:
                states.append(part.module(states[-1]))
            for position, i in enumerate(left):
                stands_for = left[position + 1] - 1 if i != left[-1] else len(parts) - 1
                fitted: list[tuple[Line, Tensor]] = []
                if i >= first and i not in gone and i > min(gone):
                    like = Line.of(parts[i]).inside
                    pairs = zip(lines[i].inside, like, strict=True)
                    fitted += [(line, target.sum(states[i])) for line, target in pairs]
                if i >= first and lines[i].can_be_fitted:
                    fitted += [(lines[i], Line.of(parts[stands_for]).sum(states[stands_for]))]
                for line, target in fitted:
                    if (fit := refit.fit(line, [x], [target])) is not None:
                        line.take_in(fit)
                x = working.parts[i].step()(x) if i in gone else working.parts[i].module(x)
    return remove_blocks(working, removing(chain, *sorted(removed)))


def softened(chain: ResidualChain, other: ResidualChain, images: Tensor) -> float:
    """Return the mean divergence of probabilities at temperature 4."""
    with torch.inference_mode():
        p, q = ((network(images) / 4).log_softmax(1) for network in (chain, other))
    return float((p.exp() * (p - q)).sum(1).mean())


def moved(chain: ResidualChain, other: ResidualChain, images: Tensor) -> float:
    """Return the mean total variation distance: probability that went to classes that have more of it now."""
    with torch.inference_mode():
        p, q = (network(images).softmax(1) for network in (chain, other))
    return float((q - p).clamp(min=0).sum(1).mean())


def trial(nats: float) -> Trial:
    return Trial(images=1, nats=10.0, soft=nats)


@pytest.mark.parametrize(
    "name",
    [
        "cifar option A",
        "cifar bottleneck",
        pytest.param("preact standard", marks=pytest.mark.exhaustive),
        pytest.param("cifar option B", marks=pytest.mark.exhaustive),
    ],
)
def test_a_compensated_search_does_what_its_words_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resprune.compensated_search.TRIAL_ROWS", 10**6)  # all pixels, as the oracle looks at
    monkeypatch.setattr(refit, "ROWS", 10**6)
    chain = make_chain(ARCHITECTURES[name])
    images = make_images(chain, 60, seed=6)
    found = order_removals(chain, [images], count=3, compensated=True, effort=math.inf)
    removed = [removal.index for removal in found]
    for turn, removal in enumerate(found, start=1):
        made_up_for = one_by_one(chain, images, removed[:turn])
        expected = divergence(chain, made_up_for, [(images[1::2], None)])
        assert removal.divergence == pytest.approx(expected, rel=2e-2, abs=1e-6)

    def decides(k: int) -> float:
        cut = remove_blocks(chain, removing(chain, k))
        return softened(chain, one_by_one(chain, images, [k]), images[1::2]) + CUT * moved(chain, cut, images)

    assert decides(removed[0]) <= min(map(decides, range(chain.depth))) * 1.02 + 1e-6


def test_of_removals_that_fits_make_up_for_alike_the_lesser_goes() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = [make_images(chain, 8)]
    plain = Search(chain, images, 0, lambda passes: None).try_each((), range(chain.depth))
    careful = CompensatedSearch(chain, images, 0, lambda passes: None)
    weighed = careful.weigh((), dict.fromkeys(plain, trial(0.1)))
    one, *_, other = sorted(plain, key=lambda k: plain[k].variation)
    assert min(weighed, key=weighed.__getitem__) == one
    assert all(weighed[k] == pytest.approx(0.1 + CUT * plain[k].variation) for k in plain)
    far_better = careful.weigh((), {one: trial(0.1 + CUT), other: trial(0.1)})
    assert far_better[other] < far_better[one]


def test_a_network_that_is_wrecked_weighs_no_more() -> None:
    original = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]) * 9
    wrong, broken, half = Trial(), Trial(), Trial()
    wrong.see(original, original.roll(1, 1))
    broken.see(original, torch.full_like(original, math.nan))
    half.see(original, original[:1].expand(2, -1))
    assert wrong.variation == pytest.approx(1)
    assert broken.variation == 1
    assert half.variation == pytest.approx(0.5)
    assert broken.divergence == math.inf


def test_a_compensated_search_leaves_the_chain_alone_and_counts_its_passes() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    images = list(make_images(chain, 256)[:, :, ::4, ::4].split(60))
    spent: list[float] = []
    order_removals(chain, images, count=3, compensated=True, on_pass=spent.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.network.state_dict().items())
    plain, careful = Search(chain, images, 0, spent.append), CompensatedSearch(chain, images, 0, spent.append)
    spent.clear()
    careful.weigh((), careful.try_each((), [5]))
    assert sum(spent[-2:]) == pytest.approx(careful.trial_cost((), [5]), rel=0.1)
    assert careful.trial_cost((), [5]) > plain.trial_cost((), [5]) / 2


def test_images_that_judge_a_fit_are_others_than_those_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = make_images(chain, 256)[:, :, ::4, ::4]
    seen: dict[str, list[Tensor]] = {"fits": [], "judged": []}
    fit, inputs, judging = CompensatedSearch._fit, CompensatedSearch._inputs, False

    def fitting(self: CompensatedSearch, *given: Any) -> Any:
        nonlocal judging
        judging = False
        try:
            return fit(self, *given)
        finally:
            judging = True

    def listening(self: CompensatedSearch, batch: Tensor) -> Tensor:
        seen["judged" if judging else "fits"].extend(batch)
        return inputs(self, batch)

    search = CompensatedSearch(chain, images.split(60), 0, lambda passes: None)
    assert (search.fit_every, search.rough_every) == (4, 4)
    search.try_each((), [5])  # the original's outputs are known then
    monkeypatch.setattr(CompensatedSearch, "_fit", fitting)
    monkeypatch.setattr(CompensatedSearch, "_inputs", listening)
    for every, judges in ((1, 128), (4, 64)):
        seen["fits"], seen["judged"] = [], []
        search.try_each((), [5], every)
        assert [len(seen["fits"]), len(seen["judged"])] == [64, judges]
        assert not any(torch.equal(one, other) for one in seen["fits"] for other in seen["judged"])


@pytest.mark.parametrize("count", [1, 2, 3, 60])
def test_so_they_are_where_there_are_few(count: int) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = make_images(chain, count)
    search = CompensatedSearch(chain, images.split(7), 0, lambda passes: None)
    fitted, judging = ({i for i in range(count) if i % every == first} for every, first in searched(search))
    assert fitted
    assert judging
    assert count == 1 or not fitted & judging
    assert all(math.isfinite(one.divergence) for one in search.try_each((), range(chain.depth)).values())


def searched(search: CompensatedSearch) -> list[tuple[int, int]]:
    """Return which images a search fits on and judges by: one in so many, from which on."""
    every = search._judge_every(search.rough_every)
    return [(search.fit_every, 0), (every, every - 1)]


@pytest.mark.parametrize("name", ["legacy_seresnet18", "ecaresnet26t"])
def test_a_bare_step_is_tried_on_as_many_pixels_as_its_projection_needs(name: str) -> None:
    """Where the block ends in attention nothing of it can be fitted, but what is left of it can."""
    chain = make_chain(timm_s(name))
    search = CompensatedSearch(chain, [make_images(chain, 48)], 0, lambda passes: None)
    x, before = chain.stem(make_images(chain, 1)), 0
    for part, (*_, (pixels, _)) in zip(chain.parts, search._targets[0], strict=True):
        x = part.module(x)
        needed = max(Line.of(part, bare=bare).unknowns for bare in (False, part.branch is not None))
        needed = max(needed, before if part.step_is_trivial else 0)  # the part before is fitted where this went
        before = needed
        assert len(pixels) >= min(TRIAL_ROWS * needed / 24, x[0, 0].numel())


def test_a_block_that_does_nothing_is_tried_once_another_has_gone() -> None:
    """It does nothing to the original's states; what it does to others, and with a fit in it, is not known."""
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with torch.no_grad():
        for parameter in chain.blocks[chain.depth - 2].branch.parameters():
            parameter.zero_()
    images = [make_images(chain, 64)]
    last, then = order_removals(chain, images, count=2, compensated=True, method="tail")
    assert (last.index, then.index) == (chain.depth - 1, chain.depth - 2)
    assert then.divergence != last.divergence
    first, *_ = order_removals(chain, images, count=1, compensated=True)
    assert (first.index, first.divergence) == (chain.depth - 2, 0.0)
