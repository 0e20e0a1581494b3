"""An image, as it is stored, becomes the pixels that a network takes, or is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from resprune.data.sources import Item
from resprune.errors import DataError
from resprune.records import Preprocessing

LISTED = 5
"""How many damaged images an error names besides the first."""
_UNDECODABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises of damaged images."""


def decode_or_count(item: Item, rest: Iterator[Item], recipe: Preprocessing, images: int) -> np.ndarray:
    """Decode an image; where it is damaged, look at all others too before it is refused.

    Args:
        item: Undecoded.
        rest: Those behind it.
        recipe: Of the network.
        images: Number of all.

    Raises:
        DataError: that names the first damaged ones and counts the others.
    """
    try:
        return decode(item, recipe)
    except DataError as error:
        if not isinstance(error.__cause__, _UNDECODABLE):
            raise
        what, hint, others = error.what, error.hint, list(_damaged(rest, recipe))
        if others:
            names = ", ".join(others[:LISTED]) + (", ..." if len(others) > LISTED else "")
            what, hint = f"{what}, nor can {len(others)} more of {images}: {names}", "replace or remove them"
        raise DataError(what, where=error.where, hint=hint) from error


def _damaged(items: Iterator[Item], recipe: Preprocessing) -> Iterator[str]:
    """Yield where damaged images are; what else is wrong with the data ends the search."""
    with suppress(DataError):  # of labels
        for item in items:
            try:
                decode(item, recipe)
            except DataError as error:
                if not isinstance(error.__cause__, _UNDECODABLE):
                    return
                yield str(error.where)


def decode(item: Item, recipe: Preprocessing) -> np.ndarray:
    """Return (h, w, c) bytes of the network's input size.

    Raises:
        DataError: where the image is damaged or not what the network takes.
    """
    return pixels_of(item, lambda image: _fit(image, item.where, recipe))


def decode_whole(item: Item, recipe: Preprocessing) -> np.ndarray:
    """Return (h, w, c) bytes of a photograph's own size, in the network's channels.

    Raises:
        DataError: where the image is damaged, or of another size than the recipe insists on.
    """
    if recipe.resize is None:
        return decode(item, recipe)
    return pixels_of(item, lambda image: image.convert(_mode(recipe)))


def pixels_of(item: Item, prepare: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return the (h, w, c) bytes of an image.

    Args:
        item: Undecoded.
        prepare: What is done to the image before its pixels are taken.

    Raises:
        DataError: where it cannot be decoded, or has more than 8 bits a channel.
    """
    try:
        with _opened(item.content) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise DataError(  # Pillow would cut all values above 255 off
                    f"its pixels have more than 8 bits ({image.mode})",
                    where=item.where,
                    hint="convert it to 8 bits, as the training images were",
                )
            pixels = np.asarray(prepare(image))
    except _UNDECODABLE as error:
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"the image cannot be decoded ({reason})", where=item.where, hint="replace or remove it"
        ) from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _opened(content: bytes | Path | Image.Image) -> Image.Image:
    if isinstance(content, Image.Image):
        return content
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def _mode(recipe: Preprocessing) -> str:
    """Return Pillow's name for the recipe's channels."""
    return "L" if recipe.channels == 1 else "RGB"


def _fit(image: Image.Image, where: str, recipe: Preprocessing) -> Image.Image:
    """Bring an image to the input's size and channels, or refuse it."""
    mode = _mode(recipe)
    if recipe.resize is not None:
        # Photographs come grey, with alpha or in CMYK; the usual recipes convert them without a word.
        interpolation = InterpolationMode(recipe.interpolation)
        photograph: Any = image.convert(mode)  # torchvision's annotations know tensors only
        scaled = TF.resize(photograph, [recipe.resize], interpolation)
        return cast("Image.Image", TF.center_crop(scaled, [recipe.height, recipe.width]))
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode != mode or image.size != (recipe.width, recipe.height):
        got = f"{image.width}x{image.height} pixels, {len(image.getbands())} channels ({image.mode})"
        raise DataError(
            f"the network takes {recipe.width}x{recipe.height} pixels, {recipe.channels} channels; got {got}",
            where=where,
            hint="use the data that the network was trained on; --input-size says what it takes,"
            " --resize scales other images to that",
        )
    return image
