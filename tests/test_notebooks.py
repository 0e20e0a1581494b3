"""The notebooks run, their own assertions hold, and the outputs that are committed are those of the run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from belongings import hand_over

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def test_there_are_two_and_they_are_small() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["demo", "your_checkpoint"]
    assert all(path.stat().st_size < 400_000 for path in NOTEBOOKS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_a_run(path: Path) -> None:
    run = runpy.run_path(str(ROOT / "scripts" / "run_notebooks.py"))["run"]
    kept, made = nbformat.read(path, as_version=4), run(path)
    assert any("image/png" in output.get("data", {}) for cell in code_of(kept) for output in cell.outputs)
    for number, (old, new) in enumerate(zip(code_of(kept), code_of(made), strict=True), 1):
        assert old.execution_count == number
        assert [kinds_of(output) for output in old.outputs] == [kinds_of(output) for output in new.outputs]
        for before, after in zip(old.outputs, new.outputs, strict=True):
            assert_same_figures(text_of(before), text_of(after))


def test_a_checkpoint_of_the_reader_s_own_goes_the_same_way(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path_factory.mktemp("store")
    for name in ("resnet.pth", "cifar10"):
        hand_over(name, store, tmp_path)
    first, *cells = code_of(nbformat.read(ROOT / "notebooks" / "your_checkpoint.ipynb", as_version=4))
    changed = first.source.replace('CHECKPOINT = "demo"', 'CHECKPOINT = "resnet.pth"')
    changed = changed.replace('DATA = "demo"', 'DATA = "cifar10"').replace("MACS = 0.4", "MACS = 0.6")
    assert changed.count("resnet.pth") == changed.count("cifar10") == changed.count("0.6") == 1
    space: dict[str, Any] = {}
    torch.manual_seed(0)
    for source in [changed, *(cell.source for cell in cells)]:
        exec(compile(source, "your_checkpoint.ipynb", "exec"), space)
    assert space["outcome"].result.blocks < space["outcome"].origin.blocks == 9
    assert (tmp_path / "pruned" / "model.safetensors").is_file()


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of(output: Any) -> list[str]:
    return [output.output_type, *sorted(output.get("data", {}))]


def text_of(output: Any) -> str:
    return output.text if output.output_type == "stream" else output.data["text/plain"]


def assert_same_figures(kept: str, made: str) -> None:
    """Check that two texts differ in the last digits of their numbers at most: machines round differently."""
    assert NUMBER.sub("#", kept).split() == NUMBER.sub("#", made).split()
    before, after = ([float(found.replace(",", "")) for found in NUMBER.findall(text)] for text in (kept, made))
    assert after == pytest.approx(before, rel=0.01, abs=0.002)
