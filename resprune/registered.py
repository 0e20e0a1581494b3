"""Names of torchvision's and timm's models whose weights lie on disk already; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torchvision import models

from resprune.errors import CheckpointError
from resprune.records import Claim, Preprocessing

Found = tuple[Path, Preprocessing, Claim]

_TORCHVISION = "torchvision/"
_TIMM = "timm/"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def find(name: str) -> Found | None:
    """Return weights that a library downloaded before, with its preprocessing and the network's name.

    Args:
        name: ``torchvision/resnet50`` or ``timm/resnet50`` for the default weights,
            ``torchvision/resnet50.IMAGENET1K_V1`` or ``timm/resnet50.a1_in1k`` for others. Any other form
            gives None.

    Raises:
        CheckpointError: where there is no such model, or its weights are not on disk.
    """
    if name.startswith(_TORCHVISION):
        return _find_torchvision(name)
    return _find_timm(name) if name.startswith(_TIMM) else None


def _find_torchvision(name: str) -> Found:
    model, _, choice = name.removeprefix(_TORCHVISION).partition(".")
    try:
        weights: Any = models.get_model_weights(model)[choice or "DEFAULT"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"torchvision has no such weights ({error})", where=name, hint="for example torchvision/resnet50"
        ) from error
    path = _downloaded(weights.url)
    if not path.is_file():
        raise CheckpointError(
            f"the weights are not on disk ({path})",
            where=name,
            hint=f"download them once with torchvision.models.get_model({model!r}, weights={weights.name!r})",
        )
    transform = weights.transforms()
    size = transform.crop_size[0]
    recipe = Preprocessing(
        channels=3,
        height=size,
        width=size,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        source=f"torchvision, {weights}",
    )
    return path, recipe, Claim(model, "torchvision", where="the name")


def _find_timm(name: str) -> Found:
    import timm  # takes seconds, and other names do without

    model = name.removeprefix(_TIMM)
    try:
        config: Any = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"timm has no such weights ({error})", where=name, hint="for example timm/resnet50.a1_in1k"
        ) from error
    places = [*_cached(config), *([_downloaded(config.url)] if config.url else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise CheckpointError(
            f"the weights are not on disk ({config.hf_hub_id or config.url or 'timm names no source'})",
            where=name,
            hint=f"download them once with timm.create_model({model!r}, pretrained=True)",
        )
    channels, height, width = config.input_size
    recipe = Preprocessing(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(config.mean),
        std=tuple(config.std),
        resize=int(min(height, width) / config.crop_pct),
        interpolation=config.interpolation,
        source=f"timm, {config.architecture}.{config.tag}",
    )
    return path, recipe, Claim(model.partition(".")[0], "timm", where="the name")


def _cached(config: Any) -> list[Path]:
    """Return weights in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return []
    files = [config.hf_hub_filename] if config.hf_hub_filename else _HUB_FILES
    found = [try_to_load_from_cache(config.hf_hub_id, file) for file in files]
    return [Path(path) for path in found if isinstance(path, str)]


def _downloaded(url: str) -> Path:
    """Return where torch keeps what it downloaded from an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(url).name
