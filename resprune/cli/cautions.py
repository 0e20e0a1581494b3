"""What one would not expect of a plan, of what came of it, or of a recipe: notes of the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resprune.cli import shell
from resprune.plurals import counted
from resprune.records import PruneOutcome, Recipe

if TYPE_CHECKING:
    from resprune.choosing import Choice


def of_choice(choice: Choice, max_drop: float | None) -> None:
    """Say where a plan's figures are better than they mean."""
    if choice.data is not None and choice.data.split == "test":
        shell.say("Note: the plan was chosen on the test images; what they say of it is too good.")
    if not choice.plan.removed:
        shell.say("Note: no block goes; what is left is the network as it was.")
    drop = choice.plan.drop
    if drop is not None and max_drop and 100 / drop.samples > max_drop:
        one, seen = f"{100 / drop.samples:.3g} points", counted(drop.samples, "image")
        shell.say(f"Note: {seen} judged the drop, where one is {one} already; more images tell more.")


def of_outcome(outcome: PruneOutcome, *, judged: bool, heals: bool) -> None:
    """Say what one would not expect of a result.

    Args:
        outcome: What was done.
        judged: Whether the plan is one for a budget.
        heals: Whether a healing was asked for.
    """
    if heals and outcome.plan.removed and not any(own.recipe for own in outcome.recovered):
        shell.say("Note: nothing was healed; the outputs are the original's as they are.")
    if outcome.seen:
        shell.say("Note: images that the figures are measured on were used to bring the network back.")
    elif judged and outcome.chosen_on_seen:
        shell.say("Note: the plan was chosen on images that the figures are measured on.")


def of_recipe(recipe: Recipe) -> None:
    """Say where a recipe does not do what it is known for."""
    if recipe.schedule == "steps" and recipe.steps is None and min(recipe.milestones) >= recipe.epochs:
        shell.say(
            f"Note: the rate stays as it is for {counted(recipe.epochs, 'epoch')}: it falls after epoch"
            f" {min(recipe.milestones)} only; name earlier --milestones."
        )
