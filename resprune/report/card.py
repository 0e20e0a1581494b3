"""The model card of an output folder."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import PurePath

from resprune.plurals import counted
from resprune.records import DataSummary, Evaluation, FinetuneOutcome, PruneOutcome, PrunePlan
from resprune.report import hub
from resprune.report.wording import held_out

WEIGHTS = "model.safetensors"


def model_card(outcome: PruneOutcome, folder: str, command: str = "") -> str:
    """Return the folder's ``README.md``: what it is, where it comes from, how to make it again and load it.

    Args:
        outcome: What was done.
        folder: The folder's name, for the examples.
        command: That did it; empty where it was done from Python.
    """
    origin, result, plan = outcome.origin, outcome.result, outcome.plan
    source = PurePath(origin.origin.path).name
    measured = "seeded random inputs (no data was given)"
    if outcome.data is not None:
        split = f", split {outcome.data.split}" if outcome.data.split else ""
        measured = f"{PurePath(outcome.data.spec).name}{split}, {counted(outcome.data.samples, 'image')}"
    removed = ", ".join(map(str, plan.removed)) or "none"
    verified = outcome.verified
    before_recovery = " before recovery" if outcome.kept else ""
    blocks = f"--remove {removed.replace(' ', '')}" if plan.removed else f"--depth {plan.depth}"
    again = f"resprune prune {shlex.quote(source)} {blocks} --out {shlex.quote(folder)}"
    again = f"Made from Python. The same blocks are removed by\n\n```sh\n{again}\n```"
    return f"""{_front_matter(outcome, folder, outcome.after, outcome.data)}
# {folder}

{result.architecture.name}: `{source}` ({origin.architecture.name}) with {len(plan.removed)} of its
{origin.blocks} residual blocks reduced to their skip connections by resprune {version("resprune")}.

| | before | after |
|---|---|---|
| blocks | {origin.blocks} | {result.blocks} |
| accuracy | {_accuracy(outcome.before)} | {_accuracy(outcome.after)} |
| loss (nats) | {_loss(outcome.before)} | {_loss(outcome.after)} |
| parameters | {origin.parameters:,} | {result.parameters:,} |
| multiply-accumulates an image | {origin.macs:,} | {result.macs:,} |

Measured on {measured}.{_recovered(outcome)}

- Rule: {plan.rule}. Removed blocks: {removed}.{_cost(plan)}
- Check: the logits{before_recovery} equal {verified.against} to within {verified.max_abs_difference:.2g}.
- Origin: SHA-256 `{origin.origin.sha256}`.
- Input: {_recipe(outcome)}.

{_making(command, again)}

{_loading(outcome, folder)}"""


def _cost(plan: PrunePlan) -> str:
    if plan.drop is None:
        return ""
    seen = counted(plan.drop.samples, "held-out image")
    low, high = plan.drop.interval.low, plan.drop.interval.high
    return (
        f" Judged to cost {plan.drop.points:.2f} points of accuracy, on {seen} (95 %: {low:.2f} to {high:.2f})."
    )


def _recovered(outcome: PruneOutcome) -> str:
    if not outcome.kept:
        return ""
    lines = [
        f"Right after the removal: accuracy {_accuracy(outcome.raw)}, loss {_loss(outcome.raw)}. Then, kept:\n"
    ]
    for tried in outcome.kept:
        split = f", split {tried.split}" if tried.split else ""
        labels = "" if tried.recipe is not None and tried.recipe.teacher_weight < 1 else " without their labels"
        change = ""
        if tried.held_out:
            change = f"; divergence from the original on {tried.held_out} others {tried.before:.3g} ->"
            change += f" {tried.after:.3g} nats"
        figures = "" if tried.figures is None else f": accuracy {_accuracy(tried.figures)}"
        lines.append(f"- {tried.kind}, {counted(tried.images, 'image')}{labels}{split}{figures}{change}")
    seen = "\n\nImages that the figures are measured on are among them." if outcome.seen else ""
    return "\n\n" + "\n".join(lines) + seen


def finetuned_card(outcome: FinetuneOutcome, folder: str, command: str = "") -> str:
    """Return the ``README.md`` of a fine-tuned network's folder.

    Args:
        outcome: What was done so far.
        folder: The folder's name, for the examples.
        command: That did it; empty where it was done from Python.
    """
    origin, recipe, best, start = outcome.origin, outcome.recipe, outcome.best, outcome.rows[0]
    measured = "nothing was held out"
    if outcome.held_out is not None:
        measured = held_out(outcome.held_out)
    teacher = ""
    if outcome.teacher is not None:
        teacher = f", distillation from {PurePath(outcome.teacher).name}, weight {recipe.teacher_weight:g}"
        teacher += f", temperature {recipe.temperature:g}"
    gamma = f"{recipe.gamma:g}" + ("" if recipe.gamma_end is None else f" to {recipe.gamma_end:g}")
    return f"""{_front_matter(outcome, folder, best.final, outcome.held_out)}
# {folder}

{outcome.result.architecture.name}: `{PurePath(origin.origin.path).name}` trained with the stage cost by
resprune {version("resprune")}, epoch {best.epoch} of {outcome.epochs}.

| | before | after |
|---|---|---|
| accuracy | {_accuracy(start.final)} | {_accuracy(best.final)} |
| loss (nats) | {_loss(start.final)} | {_loss(best.final)} |
| mean of the last stage's exits | {_share(start.last_stage_accuracy)} | {_share(best.last_stage_accuracy)} |
| branches that are exactly zero | {len(start.zero_branches)} | {len(best.zero_branches)} |

Measured on {measured}.

- Trained on {counted(outcome.data.samples, "image")} of {PurePath(outcome.data.spec).name}: gamma {gamma},
  lambda {recipe.branch_decay:g}, vanish {recipe.vanish:g}, rate {recipe.rate:g},
  batches of {recipe.batch_size}{teacher}.
- Exit heads: {outcome.heads}. `config.json` has the whole recipe, `metrics.jsonl` the figures of every epoch.
- Origin: SHA-256 `{origin.origin.sha256 or "none, trained from scratch"}`.
- Input: {_recipe(outcome)}.

{_making(command, "Made from Python, by the recipe in `config.json`.")}

{_loading(outcome, folder)}"""


def _front_matter(
    outcome: PruneOutcome | FinetuneOutcome, folder: str, figures: Evaluation | None, data: DataSummary | None
) -> str:
    library = "timm" if outcome.loads_in_timm else "resprune"
    accuracy = None if figures is None else figures.accuracy
    return hub.front_matter(library, outcome.origin, name=folder, accuracy=accuracy, data=data)


def _making(command: str, made_in_python: str) -> str:
    if not command:
        return f"## Make it again\n\n{made_in_python}"
    return f"## Make it again\n\n```sh\n{command}\n```"


def _loading(outcome: PruneOutcome | FinetuneOutcome, folder: str) -> str:
    """Return how every library that can loads the folder."""
    names = {"timm": outcome.loads_in_timm, "torchvision": bool(outcome.constructor)}
    names |= {"adapter": outcome.needs_family, "safetensors": not outcome.needs_family}
    given = {"folder": folder, "file": f"{folder}/{WEIGHTS}", "constructor": outcome.constructor}
    lines = [hub.loading(name, **given) for name, able in names.items() if able]
    text = "\n\nor\n\n".join(f"```python\n{own}\n```" for own in lines)
    if outcome.needs_family:
        name = outcome.result.architecture.family
        text += f"\n\n`adapter` is the `resprune.families.Family` of the name {name!r}."
    return f"## Load it\n\n{text}\n"


def _share(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{100 * fraction:.2f} %"


def _accuracy(evaluation: Evaluation | None) -> str:
    return _share(None if evaluation is None else evaluation.accuracy)


def _loss(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.loss is None:
        return "not measured"
    return f"{evaluation.loss:.4f}"


def _recipe(outcome: PruneOutcome | FinetuneOutcome) -> str:
    recipe = outcome.preprocessing
    scale = "" if recipe.resize is None else f"shorter side scaled to {recipe.resize}, centre crop, "
    size = f"{recipe.channels} x {recipe.height} x {recipe.width}"
    return f"{scale}{size}, mean {recipe.mean}, standard deviation {recipe.std} of [0, 1] pixels"
