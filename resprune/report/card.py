"""The model card of an output folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePath

from resprune.records import Evaluation, FinetuneOutcome, PruneOutcome


def model_card(outcome: PruneOutcome, folder: str) -> str:
    """Return the folder's ``README.md``: what it is, where it comes from, how to load it.

    Args:
        outcome: What was done.
        folder: The folder's name, for the examples.
    """
    origin, result, plan = outcome.origin, outcome.result, outcome.plan
    source = PurePath(origin.origin.path).name
    measured = "seeded random inputs (no data was given)"
    if outcome.data is not None:
        split = f", split {outcome.data.split}" if outcome.data.split else ""
        measured = f"{PurePath(outcome.data.spec).name}{split}, {outcome.data.samples} images"
    removed = ", ".join(map(str, plan.removed)) or "none"
    verified = outcome.verified
    before_recovery = " before recovery" if outcome.kept else ""
    return f"""{_front_matter(outcome)}
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

- Rule: {plan.rule}. Removed blocks: {removed}.
- Check: the logits{before_recovery} equal {verified.against} to within {verified.max_abs_difference:.2g}.
- Origin: SHA-256 `{origin.origin.sha256}`.
- Input: {_recipe(outcome)}.

{_loading(outcome, folder)}"""


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
        lines.append(f"- {tried.kind}, {tried.images} images{labels}{split}{figures}{change}")
    seen = "\n\nImages that the figures are measured on are among them." if outcome.seen else ""
    return "\n\n" + "\n".join(lines) + seen


def finetuned_card(outcome: FinetuneOutcome, folder: str) -> str:
    """Return the ``README.md`` of a fine-tuned network's folder.

    Args:
        outcome: What was done so far.
        folder: The folder's name, for the examples.
    """
    origin, recipe, best, start = outcome.origin, outcome.recipe, outcome.best, outcome.rows[0]
    measured = "nothing was held out"
    if outcome.held_out is not None:
        measured = f"{outcome.held_out.samples} training images that were held out"
    teacher = ""
    if outcome.teacher is not None:
        teacher = f", distillation from {PurePath(outcome.teacher).name}, weight {recipe.teacher_weight:g}"
        teacher += f", temperature {recipe.temperature:g}"
    gamma = f"{recipe.gamma:g}" + ("" if recipe.gamma_end is None else f" to {recipe.gamma_end:g}")
    return f"""{_front_matter(outcome)}
# {folder}

{outcome.result.architecture.name}: `{PurePath(origin.origin.path).name}` trained with the stage cost by
resprune {version("resprune")}, epoch {best.epoch} of {outcome.epochs}.

| | before | after |
|---|---|---|
| accuracy | {_accuracy(start.final)} | {_accuracy(best.final)} |
| loss (nats) | {_loss(start.final)} | {_loss(best.final)} |
| mean of the last stage's exits | {_share(start.last_stage_accuracy)} | {_share(best.last_stage_accuracy)} |
| branches that are exactly zero | {len(start.zero_branches)} | {len(best.zero_branches)} |

Measured on {measured}; the test images were not looked at.

- Trained on {outcome.data.samples} images of {PurePath(outcome.data.spec).name}: gamma {gamma},
  lambda {recipe.branch_decay:g}, vanish {recipe.vanish:g}, rate {recipe.rate:g},
  batches of {recipe.batch_size}{teacher}.
- Exit heads: {outcome.heads}. `config.json` has the whole recipe, `metrics.jsonl` the figures of every epoch.
- Origin: SHA-256 `{origin.origin.sha256 or "none, trained from scratch"}`.
- Input: {_recipe(outcome)}.

{_loading(outcome, folder)}"""


def _front_matter(outcome: PruneOutcome | FinetuneOutcome) -> str:
    library = "timm" if outcome.loads_in_timm else "resprune"
    return f"""---
library_name: {library}
tags:
- image-classification
- resprune
---
"""


def _loading(outcome: PruneOutcome | FinetuneOutcome, folder: str) -> str:
    return f"""## Load it

```python
{_load(outcome, folder)}
```
"""


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


def _load(outcome: PruneOutcome | FinetuneOutcome, folder: str) -> str:
    if outcome.loads_in_timm:
        return f'import timm\n\nmodel = timm.create_model("local-dir:{folder}", pretrained=True).eval()'
    if outcome.needs_family:
        name = outcome.result.architecture.family
        load = f'model = resprune.load("{folder}", family=adapter).network  # an nn.Module in eval mode'
        return f"import resprune\n\n{load}\n# adapter: the resprune.families.Family of the name {name!r}"
    return f'import resprune\n\nmodel = resprune.load("{folder}").network  # an nn.Module in eval mode'
