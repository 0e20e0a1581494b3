"""Output folders: appear whole or not at all, replace nothing of the user's, and are refused when damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_helpful, refusal, run
from safetensors.torch import save_file
from stored import half
from torch import Tensor

from resprune import pipeline, placing
from resprune.errors import CheckpointError, OutputError
from resprune.exporting import folder as output

# Written


def prune_to(cifar_file: Path, out: Path, *more: object) -> list[object]:
    return ["prune", cifar_file, "--depth", 3, "--out", out, *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_an_existing_output_is_replaced_by_force_only(cifar_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("prune", cifar_file, "--depth", 5, "--out", out).exit_code == 0
    before = contents(out)
    assert f"{out}: exists already; add --force to replace it" in refusal(3, *prune_to(cifar_file, out))
    assert contents(out) == before
    assert run(*prune_to(cifar_file, out, "--force")).exit_code == 0
    assert pipeline.load(out).depth == 3


def test_what_is_not_ours_is_never_replaced(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = image_folder() / "class0"
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    before = cifar_file.read_bytes(), contents(images)
    for out in (cifar_file, images, tmp_path / "dangling"):
        line = refusal(3, *prune_to(cifar_file, out, "--force"))
        assert f"{out}: exists and is no folder of resprune's, so it is not replaced; choose another" in line
    assert (cifar_file.read_bytes(), contents(images)) == before


def test_an_output_below_a_file_is_refused(cifar_file: Path) -> None:
    out = cifar_file / "out"
    with pytest.raises(OutputError, match="cannot be written"), output.whole_or_nothing(out, force=False):
        pytest.fail("there is no folder to write to")
    assert f"{out}: cannot be written (Not a directory)" in refusal(3, *prune_to(cifar_file, out))


def test_an_output_with_an_impossible_name_is_refused(cifar_file: Path, tmp_path: Path) -> None:
    line = refusal(3, *prune_to(cifar_file, tmp_path / ("x" * 300)))
    assert "cannot be written (File name too long)" in line


def test_a_csv_file_below_a_file_is_refused(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    line = refusal(3, "analyze", cifar_file, "--data", image_folder(), "--csv", cifar_file / "a.csv")
    assert f"{cifar_file / 'a.csv'}: cannot be written ({cifar_file.name} is a file)" in line


@pytest.mark.parametrize("flag", ["--csv", "--classwise-csv", "--parquet"])
def test_a_table_replaces_nothing_but_a_table(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, flag: str
) -> None:
    ending = ".parquet" if flag == "--parquet" else ".csv"
    words = ("analyze", cifar_file, "--data", image_folder(), "--no-drops", flag)
    before = cifar_file.read_bytes()
    line = refusal(3, *words, cifar_file)
    assert f"may be something else; give a new name; files ending in {ending} are replaced" in line
    assert cifar_file.read_bytes() == before
    empty, table = tmp_path / "table", tmp_path / f"table{ending}"
    empty.touch()
    for path in (empty, table, table):
        done = run(*words, path)
        assert done.exit_code == 0
        assert f"Written: {path}" in done.stdout.replace("\n", "")
        assert path.stat().st_size


def test_a_table_does_not_replace_the_images(cifar_file: Path, tmp_path: Path) -> None:
    data = tmp_path / "images.parquet"
    data.write_bytes(b"read, not written")
    line = refusal(3, "analyze", cifar_file, "--data", data, "--parquet", data)
    assert "holds the images that are read; give another name" in line


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "resprune: interrupted, nothing was written\n"),
        (SystemExit(143), 143, ""),
        (OSError(28, "No space left on device"), 3, "cannot be written (No space left on device)"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_stopped_prune_leaves_all_as_it_was(
    cifar_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
    again: bool,
) -> None:
    out = tmp_path / "models" / "out"
    out.parent.mkdir()
    if again:
        assert run("prune", cifar_file, "--depth", 5, "--out", out).exit_code == 0
    before = {folder: contents(folder) for folder in out.parent.iterdir()}

    def stop(path: Path, content: object) -> None:
        assert (path.parent / "model.safetensors").is_file()  # the weights are in the draft already
        raise error

    monkeypatch.setattr(output, "write_json", stop)
    result = run(*prune_to(cifar_file, out, "--force"))
    assert result.exit_code == status
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert {folder: contents(folder) for folder in out.parent.iterdir()} == before


def test_an_empty_folder_is_refused_but_where_it_has_to_be_there_before(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert "out: exists already; add --force" in refusal(3, *prune_to(cifar_file, out))
    monkeypatch.setattr(placing, "stays", Path.is_dir)  # a mount
    assert run(*prune_to(cifar_file, out)).exit_code == 0
    assert pipeline.load(out).depth == 3


def test_a_folder_that_stays_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "stays", Path.is_dir)
    out = tmp_path / "out"
    (out / "tracks").mkdir(parents=True)
    (out / "config.json").write_text('{"resprune": {}}')
    (out / "exits.safetensors").touch()
    before, same = contents_of_all(out), out.stat().st_ino
    with pytest.raises(KeyboardInterrupt), output.whole_or_nothing(out, force=True):
        raise KeyboardInterrupt
    assert contents_of_all(out) == before
    with pytest.raises(OutputError, match="exists already"), output.whole_or_nothing(out, force=False):
        pytest.fail("there is something in it")
    order: list[str] = []
    move = Path.replace
    monkeypatch.setattr(Path, "replace", lambda file, to: (order.append(to.name), move(file, to)))
    with output.whole_or_nothing(out, force=True) as draft:
        assert draft.parent == out
        for name in ("README.md", "config.json", "model.safetensors"):
            (draft / name).write_text(name)
    assert order[-1] == "config.json"
    assert contents_of_all(out) == {name: name.encode() for name in order}
    assert out.stat().st_ino == same


def contents_of_all(folder: Path) -> dict[str, bytes | None]:
    return {entry.name: entry.read_bytes() if entry.is_file() else None for entry in folder.iterdir()}


def test_a_closed_folder_is_told_before_anything_is_computed(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(place: Path, mode: int) -> bool:
        return Path(place) != tmp_path

    monkeypatch.setattr("os.access", closed)  # for root nothing is closed
    result = run(*prune_to(cifar_file, tmp_path / "models" / "out"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "models/out: cannot be written (Permission denied)" in result.stderr
    for flag in ("--csv", "--report", "--plots"):
        line = refusal(3, "analyze", cifar_file, "--data", tmp_path, flag, tmp_path / "file")
        assert line == f"resprune: {tmp_path / 'file'}: cannot be written (Permission denied)"
    assert "; it is a mount: name a folder in it" in str(
        placing.unwritable(tmp_path, OSError(errno.EBUSY, "busy"))
    )


# Read


@pytest.fixture
def folder(cifar_file: Path, tmp_path: Path) -> Path:
    """Return what `prune` wrote."""
    chain = pipeline.load(cifar_file, device="cpu")
    plan = pipeline.select(depth=5, blocks=chain.depth)
    pipeline.save(pipeline.prune(chain, plan), tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"resprune": 5}', '{"resprune": {}}', "\xff"])
def test_a_damaged_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="the config is damaged") as caught:
        pipeline.load(folder)
    assert_helpful(caught.value, CheckpointError, folder / "config.json")
    assert str(caught.value) in refusal(3, "inspect", folder)


def edited(folder: Path, section: str, changes: dict[str, Any]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["resprune"][section].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "vgg"}, "unknown family 'vgg'"),
        ({"stages": ["bb", "?"]}, "config.json: the config is damaged (ValueError: stages"),
        ({"stages": ["bbbb", "b", "b"]}, "the weights do not fit"),
    ],
)
def test_a_config_of_another_network_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(3, "inspect", edited(folder, "architecture", changes))


@pytest.mark.parametrize(
    "changes",
    [{"options": {}}, {"options": {"widths": "abc", "in_channels": 3, "classes": 10}}, {"stages": ["b"]}],
)
def test_a_config_that_builds_no_network_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    assert str(folder) in refusal(3, "inspect", edited(folder, "architecture", changes))


@pytest.mark.parametrize(
    "changes",
    [{"height": 0}, {"channels": 1}, {"mean": [0.5]}, {"std": [0, 0, 0]}, {"interpolation": "best"}],
)
def test_a_config_with_impossible_preprocessing_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    assert "config.json" in refusal(3, "inspect", edited(folder, "preprocessing", changes))


def test_cut_weights_in_a_folder_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(half((folder / "model.safetensors").read_bytes()))
    assert f"{folder}, model.safetensors: damaged or cut off" in refusal(3, "inspect", folder)


EXITS: dict[str, tuple[str, Tensor, Tensor | None, str]] = {
    "unpaired": ("bn1", torch.ones(2, 8), None, "lacks bn1.running_var"),
    "scalar": ("bn1", torch.tensor(1.0), torch.tensor(1.0), "bn1.running_mean has no row for every exit"),
    "negative": ("bn1", torch.ones(2, 8), -torch.ones(2, 8), "bn1.running_var holds negative variances"),
    "unknown": ("x", torch.ones(2, 8), torch.ones(2, 8), "the network has no such tensor"),
    "width": ("bn1", torch.ones(2, 9), torch.ones(2, 9), "the network's is (8,)"),
}


@pytest.mark.parametrize("case", EXITS)
def test_damaged_exit_statistics_are_refused(folder: Path, case: str) -> None:
    norm, mean, var, message = EXITS[case]
    tensors = {f"{norm}.running_mean": mean, f"{norm}.running_var": var}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "exits.safetensors")
    assert message in refusal(3, "inspect", folder, "--check")


def test_a_pipe_is_written_to_and_not_replaced() -> None:
    """As root, a file would have taken the place of /dev/null."""
    reader, writer = os.pipe()
    placing.write_text(Path(f"/dev/fd/{writer}"), "for the next program")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "for the next program"
