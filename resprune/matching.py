"""What two networks must have in common to be compared; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resprune.errors import UsageError
from resprune.records import Preprocessing
from resprune.running import Network, OnnxNetwork


def common_shape(networks: Sequence[Network]) -> tuple[int, int, int]:
    """Return the (c, h, w) that all networks take; a size that one leaves open is the other's.

    Raises:
        UsageError: where they differ, or none is known.
    """
    shapes = [_shape(own) for own in networks]
    sizes = []
    for known in ({size for size in axis if size is not None} for axis in zip(*shapes, strict=True)):
        if len(known) > 1:
            same_channels = bool(sizes)
            told = " and ".join(" x ".join(str(size or "any") for size in shape) for shape in shapes)
            raise UsageError(
                f"the networks take different input: {told}",
                where=networks[-1].origin.path,
                hint="--input-size sets a checkpoint's"
                if same_channels
                else "only networks of as many channels can be compared",
            )
        if not known:
            raise UsageError(
                "the file leaves the size of its input open",
                where=networks[0].origin.path,
                hint="measure it beside the checkpoint that it was exported from",
            )
        sizes.append(known.pop())
    channels, height, width = sizes
    return channels, height, width


def check_batch(networks: Sequence[Network], batch_size: int) -> None:
    """Refuse an ONNX file that takes batches of another size.

    Raises:
        UsageError: says which.
    """
    for own in networks:
        if isinstance(own, OnnxNetwork) and own.batch not in (None, batch_size):
            raise UsageError(
                f"takes batches of {own.batch} only, not of {batch_size}",
                where=own.origin.path,
                hint=f"use --batch-size {own.batch}",
            )


def common_classes(first: Network, second: Network) -> int:
    """Return the number of classes of both networks; one that is left open is the other's.

    Raises:
        UsageError: where they differ, or neither is known.
    """
    if first.classes is not None and second.classes is not None and first.classes != second.classes:
        raise UsageError(
            f"the networks have {first.classes} and {second.classes} classes: nothing can be compared",
            where=second.origin.path,
            hint="compare networks that were trained for the same classes",
        )
    classes = first.classes or second.classes
    if classes is None:
        raise UsageError(
            "the files leave the number of classes open",
            where=first.origin.path,
            hint="compare with a checkpoint",
        )
    return classes


def check_recipes(recipes: Sequence[Preprocessing], *, exactly: bool) -> None:
    """Refuse networks that would see different images, or, exactly, different numbers.

    Raises:
        UsageError: says in what they differ.
    """
    if len(recipes) < 2:
        return
    own, other = (numbers_of(recipe) for recipe in recipes)
    differing = [name for name in own if own[name] != other[name]]
    if exactly and differing:
        raise UsageError(
            f"the networks' preprocessing differs in {', '.join(differing)}, and noise has none",
            hint="give images with --data, or --mean, --std and others for both",
        )
    seen = [name for name in differing if name not in ("mean", "std")]
    if seen:
        told = ", ".join(f"{name} {own[name]} and {other[name]}" for name in seen)
        raise UsageError(
            f"the networks see different parts of an image: {told}",
            hint="--resize, --interpolation and --input-size hold for both",
        )


def numbers_of(recipe: Preprocessing) -> dict[str, Any]:
    """What an image is turned into depends on; the filter only where there is scaling."""
    unused = {} if recipe.resize is not None else {"interpolation": None}
    return recipe.to_json() | unused


def _shape(network: Network) -> tuple[int | None, int | None, int | None]:
    if isinstance(network, OnnxNetwork):
        return network.shape
    recipe = network.preprocessing
    return recipe.channels, recipe.height, recipe.width
