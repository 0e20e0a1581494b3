"""What an export is, on the terminal and in the ``README.md`` beside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePath

from rich.console import RenderableType
from rich.table import Table

from resprune.plurals import counted
from resprune.records import ExportOutcome
from resprune.report import hub
from resprune.report.wording import recipe_of

_LIBRARIES = {"timm": "timm", "hf": "transformers", "safetensors": "resprune"}


def summary(outcome: ExportOutcome) -> RenderableType:
    """Return what was written, what it costs, and what reading it back showed."""
    origin, result, verified = outcome.origin, outcome.result, outcome.verified
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("network", f"{origin.architecture.name}, {counted(origin.blocks, 'block')}")
    grid.add_row("format", f"{outcome.format}, read by {outcome.library}")
    if result.blocks > origin.blocks:
        grid.add_row(
            "restored", f"{counted(result.blocks - origin.blocks, 'block')} whole again, with a branch of zeros"
        )
        grid.add_row("parameters", _more(origin.parameters, result.parameters))
        grid.add_row("MACs", _more(origin.macs, result.macs))
    if outcome.folded:
        grid.add_row("folded", f"{outcome.folded} batch norms into the convolutions before them")
    if outcome.merged:
        grid.add_row("merged", f"{outcome.merged} projections into the ones behind them")
    grid.add_row(
        "checked",
        f"largest difference {verified.max_abs_difference:.2g} from {verified.against}"
        f" (at most {verified.tolerance:.2g})",
    )
    folder = str(outcome.folder)
    files = ", ".join(outcome.files)
    grid.add_row("written", files if folder == "." else f"{folder} ({files})")
    return grid


def _more(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({after / before - 1:+.1%})"


def card(outcome: ExportOutcome) -> str:
    """Return an exported folder's ``README.md``: what it is, where it comes from, how to load it."""
    origin, result, verified = outcome.origin, outcome.result, outcome.verified
    source = PurePath(origin.origin.path).name
    restored = ""
    if result.blocks > origin.blocks:
        blocks = counted(result.blocks - origin.blocks, "block")
        restored = f"""
- Compatible form: whole again with a branch that is exactly zero: {blocks} that had been removed. They cost
  {result.parameters - origin.parameters:,} parameters and {result.macs - origin.macs:,} MACs."""
    return f"""{hub.front_matter(_LIBRARIES[outcome.format], origin)}
# {PurePath(outcome.folder).name}

{result.architecture.name}, exported from `{source}` ({origin.architecture.name})
by resprune {version("resprune")}.

- {result.blocks} residual blocks, {result.parameters:,} parameters, {result.macs:,} MACs.
- Check: read back in a new process, the logits equal those of {verified.against}, to within
  {verified.max_abs_difference:.2g}.{restored}
- Origin: SHA-256 `{origin.origin.sha256 or "not known"}`.
- Input: {recipe_of(outcome.preprocessing)}.

## Load it

```python
{loading(outcome)}
```
"""


def loading(outcome: ExportOutcome, *, elsewhere: bool = False) -> str:
    """Return the lines of Python that load an export.

    Args:
        outcome: Of the export.
        elsewhere: From the folder that the command ran in, and not from beside what was written.
    """
    place = PurePath(outcome.folder)
    folder, file = (str(place), str(place / outcome.files[0])) if elsewhere else (place.name, outcome.files[0])
    return hub.loading(outcome.format, folder=folder, file=file, constructor=outcome.constructor)
