"""The model card of an output folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePath

from resprune.records import Evaluation, PruneOutcome


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
    library = "timm" if outcome.loads_in_timm else "resprune"
    return f"""---
library_name: {library}
tags:
- image-classification
- resprune
---

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

Measured on {measured}.

- Rule: {plan.rule}. Removed blocks: {removed}.
- Check: the logits equal {outcome.verified.against} to within {outcome.verified.max_abs_difference:.2g}.
- Origin: SHA-256 `{origin.origin.sha256}`.
- Input: {_recipe(outcome)}.

## Load it

```python
{_load(outcome, folder)}
```
"""


def _accuracy(evaluation: Evaluation) -> str:
    return "not measured" if evaluation.accuracy is None else f"{100 * evaluation.accuracy:.2f} %"


def _loss(evaluation: Evaluation) -> str:
    return "not measured" if evaluation.loss is None else f"{evaluation.loss:.4f}"


def _recipe(outcome: PruneOutcome) -> str:
    recipe = outcome.preprocessing
    scale = "" if recipe.resize is None else f"shorter side scaled to {recipe.resize}, centre crop, "
    size = f"{recipe.channels} x {recipe.height} x {recipe.width}"
    return f"{scale}{size}, mean {recipe.mean}, standard deviation {recipe.std} of [0, 1] pixels"


def _load(outcome: PruneOutcome, folder: str) -> str:
    if outcome.loads_in_timm:
        return f'import timm\n\nmodel = timm.create_model("local-dir:{folder}", pretrained=True).eval()'
    if outcome.needs_family:
        name = outcome.result.architecture.family
        load = f'model = resprune.load("{folder}", family=adapter).network  # an nn.Module in eval mode'
        return f"import resprune\n\n{load}\n# adapter: the resprune.families.Family of the name {name!r}"
    return f'import resprune\n\nmodel = resprune.load("{folder}").network  # an nn.Module in eval mode'
