"""What a ``config.json`` says of the network beside it: resprune's own, timm's, and Hugging Face's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resprune.errors import ArchitectureError, CheckpointError
from resprune.records import Architecture, Claim, Preprocessing

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by its own numbers."""
_UNCROPPED = 384
"""Size from which on Hugging Face's processors do not crop, whatever ``crop_pct`` says."""
_ODD = (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, OverflowError)


@dataclass(frozen=True)
class Description:
    """What a folder says of its network; all None where nothing is known."""

    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    claim: Claim | None = None


def describe(folder: Path) -> Description:
    """Read the config of a folder; one of a form that is not known says nothing.

    Raises:
        CheckpointError: where a config of a known form is damaged.
        ArchitectureError: where it asks for what the family it names cannot do.
    """
    path = folder / CONFIG_FILE
    config = _object(path)
    if "resprune" in config:
        return _ours(config["resprune"], path)
    if isinstance(config.get("architecture"), str):
        return _timm(config, path)
    if config.get("model_type") == "resnet":
        return _hugging_face(config, path, folder / PROCESSOR_FILE)
    return Description()


def pillow_filter(name: str) -> int:
    """Return Pillow's number of a filter, as Hugging Face's processors write it."""
    return _FILTERS.index(name)


def stage_weights(folder: Path) -> tuple[float, float] | None:
    """Return gamma and lambda of the run that made a fine-tuned folder, None where it is no such folder.

    Raises:
        CheckpointError: where its recipe is damaged.
    """
    path = folder / CONFIG_FILE
    section = _object(path).get("resprune")
    recipe = section.get("recipe") if isinstance(section, dict) else None
    if recipe is None:
        return None
    try:
        end = recipe["gamma_end"]
        return float(recipe["gamma"] if end is None else end), float(recipe["branch_decay"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(error, path, "name gamma and lambda with --gamma and --lambda") from error


def _object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(error, path, "write the folder again") from error
    if not isinstance(found, dict):
        error = TypeError(f"it holds a {type(found).__name__}, not an object")
        raise _damaged(error, path, "write the folder again") from error
    return found


def _damaged(error: Exception, path: Path, hint: str) -> CheckpointError:
    what = f"the config is damaged ({type(error).__name__}: {error})"
    return CheckpointError(what, where=path, hint=hint)


def _ours(section: Any, path: Path) -> Description:
    try:
        return Description(
            Architecture.from_json(section["architecture"]),
            Preprocessing.from_json(section["preprocessing"], source=CONFIG_FILE),
        )
    except _ODD as error:
        raise _damaged(error, path, "write the folder again with resprune") from error


def _timm(config: Mapping[str, Any], path: Path) -> Description:
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"model_args is {arguments!r}, not an object", where=path)
    claim = Claim(config["architecture"], "timm", arguments, CONFIG_FILE)
    recipe = config.get("pretrained_cfg", config)  # before timm 0.9 everything was at the top
    if recipe is config and "input_size" not in config:
        return Description(claim=claim)

    def read() -> dict[str, Any]:
        channels, height, width = recipe["input_size"]
        return {
            "channels": arguments.get("in_chans") or channels,
            "height": height,
            "width": width,
            "mean": recipe["mean"],
            "std": recipe["std"],
            "resize": int(min(height, width) / recipe["crop_pct"]),
            "interpolation": recipe["interpolation"],
        }

    _require(recipe, ("input_size", "mean", "std", "crop_pct", "interpolation"), path)
    return Description(preprocessing=_preprocessing(read, path), claim=claim)


def _hugging_face(config: Mapping[str, Any], path: Path, processor: Path) -> Description:
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    widths = [(256 if bottleneck else 64) << stage for stage in range(4)]
    expected: dict[str, Any] = {
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "embedding_size": 64,
        "hidden_sizes": widths,
    }
    for key, value in expected.items():
        got = config.get(key, [256, 512, 1024, 2048] if key == "hidden_sizes" else value)
        if got != value:
            raise ArchitectureError(
                f"{key} is {got!r}; resprune reads Hugging Face's ResNets with {value!r} only",
                where=path,
                hint="resprune families lists what is read; from Python, resprune.wrap takes any nn.Module",
            )
    stride = "1x1" if config.get("downsample_in_bottleneck", False) else "3x3"
    claim = Claim("", "huggingface", {"stride": stride}, CONFIG_FILE)
    recipe = _object(processor)
    return Description(preprocessing=_processor(recipe, processor) if recipe else None, claim=claim)


def _processor(recipe: Mapping[str, Any], path: Path) -> Preprocessing:
    _require(recipe, ("image_mean", "image_std", "size"), path)
    if recipe.get("do_rescale", True) is not True or recipe.get("do_normalize", True) is not True:
        raise CheckpointError(
            "do_rescale or do_normalize is off", where=path, hint="mend the preprocessing in its config"
        )

    def read() -> dict[str, Any]:
        height, width = _sides(recipe["size"])
        resize = min(height, width)
        if recipe.get("crop_pct"):
            resize = int(resize / recipe["crop_pct"]) if resize < _UNCROPPED else resize
        elif recipe.get("crop_size") and recipe.get("do_center_crop", True):
            height, width = _sides(recipe["crop_size"])
        return {
            "channels": len(recipe["image_mean"]),
            "height": height,
            "width": width,
            "mean": recipe["image_mean"],
            "std": recipe["image_std"],
            "resize": resize if recipe.get("do_resize", True) else None,
            "interpolation": _FILTERS[range(len(_FILTERS)).index(recipe.get("resample", 2))],
        }

    return _preprocessing(read, path)


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width in any of the forms that Hugging Face's processors write."""
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    return size["height"], size["width"]


def _require(recipe: Any, keys: tuple[str, ...], path: Path) -> None:
    missing = [key for key in keys if not isinstance(recipe, Mapping) or recipe.get(key) is None]
    if missing:
        raise CheckpointError(
            f"the preprocessing lacks {', '.join(missing)}",
            where=path,
            hint="add it to the config, or name the weights file itself",
        )


def _preprocessing(read: Any, path: Path) -> Preprocessing:
    try:
        return Preprocessing.from_json(read(), source=path.name)
    except _ODD as error:
        raise _damaged(error, path, "mend the preprocessing in it, or name the weights file itself") from error
