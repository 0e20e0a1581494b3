"""Rivals of a plan: one block exchanged, healed for a while, and the one that heals best goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import ARCHITECTURES, make_chain, switch_off

import resprune
from resprune import exchange
from resprune.allowance import Allowance
from resprune.chain import ResidualChain
from resprune.errors import UsageError
from resprune.exchange import Exchange
from resprune.judging import Judge
from resprune.pipeline import Choice
from resprune.records import RECIPES, Budget, PrunePlan, Rival

HEAL = replace(RECIPES["heal"], steps=20, batch_size=16)
BUDGET = Budget(macs=0.7)


@pytest.fixture
def chain() -> ResidualChain:
    return make_chain(ARCHITECTURES["cifar option A"])


@pytest.fixture
def images(image_folder: Callable[..., Path]) -> Path:
    return image_folder(each=8)


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a healing of 20 steps have rivals, of two steps each."""
    monkeypatch.setattr(exchange, "FEWEST_STEPS", 2)


def chosen(chain: ResidualChain, images: Path, budget: Budget = BUDGET, **options: Any) -> Choice:
    wishes = {"heal": HEAL, "recover": False, "device": "cpu", **options}
    return resprune.choose_for(chain, images, budget, **wishes)


def scripted(*divergences: float) -> Callable[[Exchange, PrunePlan], Rival]:
    """Return healings that end at the divergences given, in turn, the plan's own first."""
    left = iter(divergences)
    return lambda self, plan: Rival(plan.removed, 2, next(left))


@pytest.mark.usefixtures("_soon")
def test_rivals_differ_by_one_block_and_keep_the_budget(chain: ResidualChain, images: Path) -> None:
    told, epochs = list[PrunePlan](), list[int]()
    plan = chosen(
        chain,
        images,
        recover=True,
        tell=lambda candidate: told.append(candidate.plan),
        on_epoch=lambda row: epochs.append(row.epoch),
    ).plan
    first, *others = plan.rivals
    assert first.removed == chosen(chain, images, recover=True, heal=None).plan.removed
    assert len(others) == exchange.RIVALS == 3  # the command's default
    assert len({rival.removed for rival in plan.rivals}) == len(plan.rivals)
    allowance = Allowance(chain, BUDGET)
    for rival in others:
        assert len(set(rival.removed) - set(first.removed)) == 1
        assert len(rival.removed) == len(first.removed)
        assert allowance.missed(rival.removed) is None
        assert rival.steps == 2
    assert plan.removed in {rival.removed for rival in plan.rivals}
    assert [told_of.rivals[0] for told_of in told] == list(plan.rivals)
    assert epochs == []  # those of trials are not those of the healing
    assert chosen(chain, images, recover=True).plan == plan


@pytest.mark.usefixtures("_soon")
def test_a_rival_is_judged_on_what_its_healing_made(chain: ResidualChain, images: Path) -> None:
    plan = chosen(chain, images).plan
    short = replace(HEAL, steps=2)
    for rival in plan.rivals:
        named = resprune.select(remove=rival.removed, blocks=chain.depth)
        pruned = resprune.prune(chain, named, images, recover=False, heal=short, device="cpu")
        tried = pruned.outcome.recovered[-1]
        assert tried.kind == "healing"
        assert rival.divergence == pytest.approx(tried.after if tried.kept else tried.before, rel=1e-6)


@pytest.mark.usefixtures("_soon")
def test_the_rival_that_heals_best_takes_the_place(
    chain: ResidualChain, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "_healed", scripted(0.5, 0.4, 0.2, 0.19))  # the last by less than a tenth
    before = chosen(chain, images, heal=None).plan
    after = chosen(chain, images).plan
    assert after.rivals[0] == Rival(before.removed, 2, 0.5)
    assert after.removed == after.rivals[2].removed
    assert sorted((*after.removed, *after.kept)) == list(range(chain.depth))
    (goes,), (stays,) = set(after.removed) - set(before.removed), set(before.removed) - set(after.removed)
    assert after.order == tuple(goes if k == stays else k for k in before.order)
    assert after.reasons[goes] == (
        f"removed in the place of block {stays}: after 2 steps of healing the output diverged by 0.2 nats,"
        f" and by 0.5 where block {stays} goes"
    )
    assert after.reasons[stays] == f"kept: without block {goes} in its place the network heals better"
    unchanged = [k for k in range(chain.depth) if k not in (goes, stays)]
    assert [after.reasons[k] for k in unchanged] == [before.reasons[k] for k in unchanged]
    assert after.divergence != before.divergence


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("own", [0.109, 0.0, float("inf")])
def test_the_plan_stays_where_no_rival_is_clearly_better(
    own: float, chain: ResidualChain, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (own, own, own) if own == float("inf") else (0.1, 0.2, 0.3)
    monkeypatch.setattr(Exchange, "_healed", scripted(own, *others))
    before, after = chosen(chain, images, heal=None).plan, chosen(chain, images).plan
    assert len(after.rivals) == 4
    assert replace(after, rivals=()) == before


@pytest.mark.usefixtures("_soon")
def test_what_is_too_slow_is_no_rival(
    chain: ResidualChain, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = chosen(chain, images).plan.rivals[1]
    missed = Allowance.missed

    def slow(self: Allowance, gone: Collection[int]) -> str | None:
        return "too slow" if tuple(sorted(gone)) == best.removed else missed(self, gone)

    monkeypatch.setattr(Allowance, "missed", slow)
    found = chosen(chain, images).plan.rivals
    assert len(found) == 4
    assert best.removed not in {rival.removed for rival in found}


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (BUDGET, {"heal": replace(HEAL, steps=19)}),  # whose rivals would have one step
        (BUDGET, {"heal": replace(HEAL, hold_out=0.0)}),  # nothing to judge on
        (BUDGET, {"method": "stagewise"}),
        (BUDGET, {"heal_rivals": 0}),
        (Budget(macs=0.7, max_drop=100), {}),  # the drop is judged on images that choose nothing
        (Budget(macs=0.9999, parameters=0.9999, max_drop=None), {"method": "tail"}),
    ],
)
def test_where_there_are_no_rivals(
    budget: Budget, options: dict[str, Any], chain: ResidualChain, images: Path
) -> None:
    assert chosen(chain, images, budget, **options).plan.rivals == ()


@pytest.mark.usefixtures("_soon")
def test_a_plan_that_loses_nothing_has_no_rivals(
    chain: ResidualChain, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "_healed", scripted())
    for block in chain.blocks[1:3]:
        switch_off(block)
    plan = chosen(chain, images, Budget(macs=0.99)).plan
    assert plan.removed
    assert plan.divergence == 0
    assert plan.rivals == ()


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_the_number_of_rivals_is_whole(count: Any, chain: ResidualChain, images: Path) -> None:
    with pytest.raises(UsageError, match=f"^heal_rivals must be (a whole number|at least 0), got {count!r}$"):
        chosen(chain, images, heal_rivals=count)


def test_a_short_healing_has_no_rivals_and_original_outputs_are_computed_once(
    chain: ResidualChain, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(chain, images).plan.rivals == ()
    monkeypatch.setattr(exchange, "FEWEST_STEPS", 2)
    made = list[Judge]()
    build = Judge.__init__

    def counted(self: Judge, *words: Any, **options: Any) -> None:
        made.append(self)
        build(self, *words, **options)

    monkeypatch.setattr(Judge, "__init__", counted)
    assert len(chosen(chain, images).plan.rivals) == 4
    assert len(made) == 1


@pytest.mark.usefixtures("_soon")
def test_the_command_tells_what_was_tried(cifar_file: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("prune", cifar_file, "--data", images, "--target-macs", 0.7, "--heal-steps", 20)
    words += (
        "--no-recover",
        "--heal-rivals",
        1,
        "--batch-size",
        16,
        "--heal-precision",
        "fp32",
        "--device",
        "cpu",
    )
    result = run(*words, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)["plan"]
    assert len(plan["rivals"]) == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Tried: without block")]
    assert len(lines) == 2
    assert all(" nats from the original after 2 steps of healing" in line for line in lines)
    shown = " ".join(run(*words, "--dry-run").stdout.split())
    assert shown.count("after 2 steps of healing") >= 2
    assert " tried block" in shown
