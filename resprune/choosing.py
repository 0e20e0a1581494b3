"""A budget becomes a plan: what is read for it, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resprune.allowance import Allowance, Clock
from resprune.arguments import check_count, check_type
from resprune.chain import ResidualChain
from resprune.checks import check_chain
from resprune.chooser import Candidate, Chooser
from resprune.data import CHOICE_FIRST
from resprune.errors import DataError, UsageError
from resprune.exchange import RIVALS
from resprune.judging import Judge
from resprune.latency import block_prices, images_to_time, measure
from resprune.reading import Data, Progress, batches_for, silent
from resprune.records import Budget, DataSummary, Method, PrunePlan, Recipe, Speed
from resprune.restoration import CHOICE_IMAGES, OnEpoch, Restoration, Restored
from resprune.savings import parameter_savings, prices, savings


@dataclass(frozen=True)
class Choice:
    """What `choose_for` chose.

    Attributes:
        plan: Which blocks go.
        data: The images that it was chosen and judged on; None where none were read.
        restored: The network whose accuracy was judged; None where none was made.
    """

    plan: PrunePlan
    data: DataSummary | None = None
    restored: Restored | None = None


def choose_for(
    chain: ResidualChain,
    data: Data | None,
    budget: Budget,
    *,
    plan: PrunePlan | None = None,
    method: Method = "surgical",
    recover: bool = True,
    heal: Recipe | None = None,
    heal_rounds: int = 1,
    heal_rivals: int = RIVALS,
    split: str | None = None,
    samples: int = CHOICE_IMAGES,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    latency_batch: int = 1,
    progress: Progress = silent,
    on_epoch: OnEpoch = lambda row: None,
    tell: Callable[[Candidate], None] = lambda candidate: None,
) -> Choice:
    """Choose the plan that a budget asks for, on images that are not the test's where there are others.

    Args:
        chain: The network.
        data: Images; labelled where accuracy is asked for.
        budget: What is wished for.
        plan: Where the blocks are named already; the budget is then a condition, and images are read only to
            judge a drop.
        method: Which blocks may go: see `resprune.sensitivity.removals`.
        recover: Choose blocks, and judge their loss, as after compensation.
        heal: Judge a loss after healing by this recipe too, which is done for every number of removals that is
            tried.
        heal_rounds: See `resprune.prune`.
        heal_rivals: Where no loss is limited: how many plans with one block exchanged are healed for a while,
            and the best taken; 0 for none. See `resprune.exchange`.
        split: By default validation, else train.
        samples: Use so many images at most.
        seed: Of everything drawn.
        batch_size: Of images that are not trained on.
        device: For healing.
        latency_batch: Number of images at once that the network is to be fast for.
        progress: Shown the images done.
        on_epoch: Told of every epoch of a healing.
        tell: Told of every plan whose accuracy was measured, or that was healed for a while.

    Raises:
        BudgetError: where it cannot be had; it says how close one gets.
        DataError: where accuracy is asked for and there are no labels.
        UsageError: where the wishes contradict each other.
    """
    check_chain(chain)
    check_type("budget", budget, Budget, "for example resprune.Budget(macs=0.6)")
    if heal is not None:
        check_type("heal", heal, Recipe, 'for example resprune.RECIPES["heal"]')
    check_count("heal_rivals", heal_rivals, 0)
    if not budget:
        raise UsageError("no budget given", hint="for example --target-macs 0.6, or --max-drop 0.5")
    allowance = Allowance(chain, budget, None if budget.speedup is None else _clock(chain, latency_batch, seed))
    allowance.check()
    if plan is not None and budget.max_drop is None:
        return Choice(allowance.confirmed(plan))
    reading = {"split": split, "seed": seed, "batch_size": batch_size}
    images = batches_for(chain, data, samples=samples, order=CHOICE_FIRST, **reading)
    if budget.max_drop is not None and not images.labelled:
        raise DataError(
            "there are no labels to measure a drop of accuracy with",
            where=images.summary.spec,
            hint="use labelled images, or --target-macs",
        )
    restoration = Restoration(chain, None, None, seed, progress)
    judge, others, seen = None, images, images.summary
    # With a limit on the drop the images that rivals would be judged on are those that judge the drop.
    compares = heal is not None and method == "surgical" and budget.max_drop is None
    rivals = heal_rivals if compares else 0
    if rivals or budget.max_drop is not None:
        restoration = Restoration.open(
            chain,
            data,
            recover=recover,
            heal=heal,
            rounds=heal_rounds,
            samples=samples,
            device=device,
            progress=progress,
            on_epoch=on_epoch,
            **reading,
        )
    if budget.max_drop is not None:
        judge, others, restoration = restoration.divided(images)
        seen = judge.with_others(others)
    chooser = Chooser(
        chain=chain,
        images=others,
        allowance=allowance,
        method=method,
        compensated=recover,
        price=_prices(chain, budget, latency_batch, seed),
        judge=None if judge is None else Judge(chain, judge),
        restoration=restoration,
        rivals=rivals,
        tell=tell,
    )
    best = chooser.choose() if plan is None else chooser.judged(allowance.confirmed(plan))
    return Choice(best.plan, seen, best.restored)


def _prices(chain: ResidualChain, budget: Budget, latency_batch: int, seed: int) -> Sequence[float]:
    """Return what each block's removal is worth for a budget."""
    if budget.speedup is not None:
        return block_prices(chain, images_to_time(chain, latency_batch, seed))
    by_parameters = budget.macs is None and budget.parameters
    return prices(parameter_savings(chain) if by_parameters else savings(chain))


def _clock(chain: ResidualChain, latency_batch: int, seed: int) -> Clock:
    """Return what measures a network against the original, in turns."""
    images = images_to_time(chain, latency_batch, seed)

    def clock(other: ResidualChain) -> Speed:
        whole, cut = measure([chain, other], images)
        ratio = whole.ratio_to(cut)
        return Speed(ratio.median, (ratio.low, ratio.high), len(images), whole.threads, whole.device)

    return clock
