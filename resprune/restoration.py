"""All that brings a pruned network back, in turn: statistics, compensation, healing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from resprune.arguments import check_count
from resprune.chain import ResidualChain
from resprune.data import CHOICE_FIRST, Batches
from resprune.errors import DataError, UsageError
from resprune.reading import Data, Progress, batches_for, silent, spec_for
from resprune.records import EpochRow, PrunePlan, Recipe, Recovery
from resprune.recovery import Recoverer
from resprune.surgery import remove_blocks

if TYPE_CHECKING:
    from resprune.healing import Healer

CHOICE_IMAGES = 5000
"""On how many images at most a plan is chosen, and a pruned network recovered."""

OnEpoch = Callable[[EpochRow], None]
"""Told of every epoch of a healing, epoch 0 (before any training) included."""
Step = tuple[ResidualChain, Recovery]
"""The best network so far, and what was tried."""


@dataclass(frozen=True)
class Restored:
    """A pruned network, and what was done to bring it back.

    Attributes:
        network: The best one in the end, without all of the plan's blocks.
        steps: What was tried, in turn; empty where nothing was removed or lost.
        by: What did it, for networks that are to be brought back the same way.
    """

    network: ResidualChain
    steps: tuple[Step, ...] = ()
    by: Restoration | None = None


@dataclass(frozen=True)
class Restoration:
    """What is done to every network that is cut from a chain: the chosen one, and those beside it.

    Attributes:
        chain: The original.
        images: For statistics and compensation, labelled or not; None leaves both out.
        healer: For training; None leaves it out.
        seed: Of what is held out.
        progress: Opened with a description and a number of images.
        rounds: In how many parts the blocks go, the network being brought back after each.
    """

    chain: ResidualChain
    images: Batches | None
    healer: Healer | None
    seed: int
    progress: Progress
    rounds: int = 1

    @classmethod
    def open(
        cls,
        chain: ResidualChain,
        data: Data | None,
        *,
        recover: bool = True,
        heal: Recipe | None = None,
        rounds: int = 1,
        split: str | None = None,
        samples: int = CHOICE_IMAGES,
        seed: int = 0,
        batch_size: int | None = None,
        device: str = "auto",
        progress: Progress = silent,
        on_epoch: OnEpoch = lambda row: None,
    ) -> Restoration:
        """Open the images that a restoration reads.

        Args:
            chain: The original.
            data: Images; for healing a data spec.
            recover: Whether to re-estimate statistics and to compensate.
            heal: Recipe of the healing; None for none. Labels are read where it needs some.
            rounds: In how many parts the blocks go.
            split: Of the images; by default validation, else train, and train for healing.
            samples: Use so many images at most for statistics and compensation, drawn by the seed.
            seed: Of the draw, and of what is held out.
            batch_size: Of images that are not trained on.
            device: For healing: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
            progress: Shown the images done.
            on_epoch: Told of every epoch of a healing.

        Raises:
            UsageError, DataError: where there is nothing to read, or it does not fit.
        """
        check_count("heal_rounds", rounds)
        images = healer = None
        if heal is not None:
            from resprune.healing import Healer  # with the training loop and Accelerate, a second to import

            spec = spec_for(chain, data)
            if isinstance(spec, Batches):
                raise UsageError("batches that were opened cannot be trained on", hint="give the data's spec")
            options = {"split": split, "batch_size": batch_size}
            healer = Healer.open(
                chain, spec, heal, device=device, progress=progress, on_epoch=on_epoch, **options
            )
        if recover:
            wish = {"split": split, "samples": samples, "order": CHOICE_FIRST}
            images = batches_for(chain, data, seed=seed, batch_size=batch_size, **wish)
        return cls(chain, images, healer, seed, progress, rounds)

    def divided(self, images: Batches) -> tuple[Batches, Batches, Restoration]:
        """Return images that judge, others to choose on, and a restoration that has not seen the first.

        Args:
            images: To divide; where the training is on the same split, those that it holds out are instead.

        Raises:
            DataError: where there are fewer than two.
            UsageError: where the training is on the same split and holds none out.
        """
        training = None if self.healer is None else self.healer.images
        if training is not None and training.summary.split == images.summary.split:
            if training.held_out is None:
                raise UsageError(
                    "the healing trains on all images, and none are left to judge it on",
                    where=images.summary.spec,
                    hint="hold some out: hold_out=0.1",
                )
            images = training.held_out
        if len(images.source) < 2:
            raise DataError(
                "one image is too few to choose on some and judge on others",
                where=images.summary.spec,
                hint="give more",
            )
        judge, others = images.divide(len(images.source) // 2, self.seed + 1)
        return judge, others, self if self.images is None else replace(self, images=others)

    def restore(self, pruned: ResidualChain, plan: PrunePlan) -> Restored:
        """Bring a pruned network back; in several rounds it is cut again from what they made of the original.

        The blocks go in the plan's order, else from the last to the first. The original is the measure and the
        teacher in every round.
        """
        order = plan.order or plan.removed[::-1]
        rounds = self.rounds_for(plan)
        if not order:
            return Restored(pruned, by=self)
        if rounds == 1:
            return self._restored(pruned, plan)
        network, gone, steps = self.chain, frozenset[int](), list[Step]()
        for turn in range(1, rounds + 1):
            more = frozenset(order[: turn * len(order) // rounds])
            left = [k for k in range(self.chain.depth) if k not in gone]
            here = {position for position, k in enumerate(left) if k in more}
            network = remove_blocks(network, PrunePlan.without(here, len(left), "a round"))
            done = self._restored(network, PrunePlan.without(more, self.chain.depth, "rounds so far"))
            network, gone = done.network, more
            steps += done.steps
        return Restored(network, tuple(steps), self)

    def rounds_for(self, plan: PrunePlan) -> int:
        """Return in how many parts the blocks of a plan go: one block at least in each."""
        return min(self.rounds, len(plan.removed))

    def _restored(self, pruned: ResidualChain, plan: PrunePlan) -> Restored:
        steps: list[Step] = []
        if self._recoverer is not None:
            steps = self._recoverer.recover(pruned, plan)
        if self.healer is not None:
            healed = self.healer.heal(steps[-1][0] if steps else pruned, plan)
            steps += [] if healed is None else [healed]
        return Restored(steps[-1][0] if steps else pruned, tuple(steps), self)

    @cached_property
    def _recoverer(self) -> Recoverer | None:
        return None if self.images is None else Recoverer(self.chain, self.images, self.seed, self.progress)
