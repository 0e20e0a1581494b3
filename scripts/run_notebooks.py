"""Run the notebooks and write them with their outputs.

    python scripts/run_notebooks.py [NOTEBOOK ...]

`tests/test_notebooks.py` runs them too, and compares.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks"
SECONDS = 300
"""That a cell may take."""


def main() -> None:
    """Run those of the command line, or all."""
    for path in [Path(word) for word in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(path), path)
        print(f"{path}: {path.stat().st_size:,} bytes")


def run(path: Path) -> Any:
    """Return a notebook with the outputs of a new run, in a folder of its own; nothing of the machine in it.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="resprune-") as place:
        resources = {"metadata": {"path": place}}
        # Names of times and machines would make every run another file.
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS,
            resources=resources,
            record_timing=False,
            coalesce_streams=True,
            kernel_name="python3",
            extra_arguments=["--HistoryManager.enabled=False"],
        )
        client.execute()
    notebook.metadata = {"language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    main()
