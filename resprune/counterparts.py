"""Which parts of a pruned network stand for which of the original's, and which states are to be alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

import torch

from resprune.chain import ResidualChain
from resprune.errors import UsageError
from resprune.families import Part
from resprune.records import Preprocessing, PrunePlan, Recipe
from resprune.surgery import reduced_architecture


def side_by_side(
    original: ResidualChain, pruned: ResidualChain, plan: PrunePlan
) -> list[tuple[Part | None, list[Part]]]:
    """Return the pruned network's parts, each with the original's that its state stands for.

    The first has none of its own where blocks that leave nothing come first.

    Args:
        original: With all blocks.
        pruned: What became of it.
        plan: Carried out.
    """
    removed = {original.blocks[index].path for index in plan.removed}
    ours = iter(pruned.parts)
    groups: list[tuple[Part | None, list[Part]]] = []
    for part in original.parts:
        if part.path not in removed or not part.step_is_trivial:
            groups.append((next(ours), [part]))
        elif groups:
            groups[-1][1].append(part)
        else:
            groups.append((None, [part]))
    return groups


def is_cut(part: Part | None, originals: Sequence[Part]) -> bool:
    """Whether blocks were removed between the state before a part and the one behind it; see `side_by_side`."""
    return part is None or len(originals) > 1 or (part.branch is None) != (originals[0].branch is None)


@dataclass(frozen=True)
class Counterparts:
    """States of two networks that are to be alike, told by how many parts lie before them; 0 is the stem's.

    Attributes:
        own: Of the network that learns, ascending.
        taught: Of its teacher, one for each.
    """

    own: tuple[int, ...]
    taught: tuple[int, ...]

    @classmethod
    def of(cls, chain: ResidualChain, teacher: ResidualChain, plan: PrunePlan | None = None) -> Self:
        """Return the states behind all parts that both have, as far as that is known.

        Args:
            chain: That learns.
            teacher: What it was cut from, or another network of as many stages.
            plan: What was removed of the teacher. Without it, and where the two have other numbers of blocks,
                the states at the ends of the stages are all that is known to be alike.
        """
        if plan is not None:
            groups = side_by_side(teacher, chain, plan)
            there, behind = [part is not None for part, _ in groups], [len(parts) for _, parts in groups]
            return cls(_running(there), _running(behind))
        if chain.architecture.stages == teacher.architecture.stages:
            every = tuple(range(1, len(chain.parts) + 1))
            return cls(every, every)
        return cls(_ends_of_stages(chain), _ends_of_stages(teacher))


def check_teacher(chain: ResidualChain, teacher: ResidualChain, recipe: Recipe, plan: PrunePlan | None) -> None:
    """Refuse a teacher that a network cannot learn from.

    Args:
        chain: That learns.
        teacher: For its outputs, and for its states where the recipe weighs those.
        recipe: Of the training.
        plan: See `Counterparts.of`.

    Raises:
        UsageError: where classes, preprocessing or states do not fit, or the plan is another network's.
    """
    mine, theirs = chain.preprocessing, teacher.preprocessing
    if teacher.classes != chain.classes or (theirs.mean, theirs.std) != (mine.mean, mine.std):
        raise UsageError(
            f"the teacher gives {teacher.classes} classes on images of mean {theirs.mean} and deviation"
            f" {theirs.std}, the network {chain.classes} on {mine.mean} and {mine.std}",
            where=teacher.origin.path,
            hint="choose a teacher of the same data and preprocessing, or none",
        )
    if plan is not None and reduced_architecture(teacher, plan).stages != chain.architecture.stages:
        raise UsageError(
            f"the plan ({plan.rule}) leaves {plan.depth} blocks of the teacher that are not the network's"
            f" {chain.depth}",
            where=teacher.origin.path,
            hint="give the plan that the network was pruned by, or none",
        )
    if recipe.compares_states and teacher is not chain:
        alike = Counterparts.of(chain, teacher, plan)
        own, given = _shapes(chain, mine, alike.own), _shapes(teacher, mine, alike.taught)
        if own != given:
            shapes = [", ".join(shape for shape, _ in groupby(each)) for each in (given, own)]
            raise UsageError(
                f"the teacher's states have the shapes {shapes[0]}, the network's {shapes[1]}",
                where=teacher.origin.path,
                hint="choose the network that this one was pruned from, or set the weight of the states to 0",
            )


def _shapes(chain: ResidualChain, recipe: Preprocessing, wanted: Collection[int]) -> list[str]:
    """Return the shapes c x h x w of a chain's states, in words."""
    images = torch.empty(1, recipe.channels, recipe.height, recipe.width, device="meta")
    states = chain.outline.with_states(images, wanted)[1]
    return ["x".join(map(str, state.shape[1:])) for state in states]


def _running(counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(counts[: turn + 1]) for turn in range(len(counts)))


def _ends_of_stages(chain: ResidualChain) -> tuple[int, ...]:
    """Return how many parts lie before the end of every stage; one that left nothing ends as it began."""
    stages = range(len(chain.architecture.stages))
    return tuple(sum(part.stage <= stage for part in chain.parts) for stage in stages)
