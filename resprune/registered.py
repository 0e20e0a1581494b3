"""Names of torchvision's models whose weights lie on disk already; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torchvision import models

from resprune.errors import CheckpointError
from resprune.records import Preprocessing

PREFIX = "torchvision/"


def find(name: str) -> tuple[Path, Preprocessing] | None:
    """Return the weights file that torchvision downloaded before, and the preprocessing that belongs to it.

    Args:
        name: ``torchvision/resnet50`` for the default weights, ``torchvision/resnet50.IMAGENET1K_V1`` for
            others. Any other form gives None.

    Raises:
        CheckpointError: where there is no such model, or its weights are not on disk.
    """
    if not name.startswith(PREFIX):
        return None
    model, _, choice = name.removeprefix(PREFIX).partition(".")
    try:
        weights: Any = models.get_model_weights(model)[choice or "DEFAULT"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"torchvision has no such weights ({error})", where=name, hint="for example torchvision/resnet50"
        ) from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(weights.url).name
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
    return path, recipe
