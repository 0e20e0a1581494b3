"""Random changes of training images, by torchvision and timm, as a function of a seed and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from resprune.data.batches import is_small
from resprune.errors import UsageError
from resprune.records import Preprocessing

AUGMENTATIONS = ("auto", "none", "crop", "crop-flip", "timm")
"""What `augmentation` takes."""
_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")


class Augmentation(Protocol):
    """An image (c, h, w) of bytes and a seed of 64 bits become another such image."""

    @property
    def whole(self) -> bool:
        """Whether photographs are taken in their own size, not scaled and cropped as for inference."""
        ...

    def __call__(self, image: Tensor, seed: int) -> Tensor: ...


@dataclass(frozen=True)
class Unchanged:
    """No augmentation."""

    whole: bool = False

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        return image


@dataclass(frozen=True, eq=False)
class CropFlip:
    """torchvision's crop of the image with a border, then its flip from left to right half of the time.

    The border is black, as in the recipes that most checkpoints of small images were trained with: the mean
    colour in its place made a fine-tuned ResNet-32 worse.

    Attributes:
        recipe: The border has an eighth of the size on every side.
        flip: Off for digits and letters.
    """

    recipe: Preprocessing
    flip: bool
    whole: bool = False
    _transform: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.recipe.height, self.recipe.width
        crop = v2.RandomCrop([height, width], padding=[width // 8, height // 8])
        whole = v2.Compose([crop, v2.RandomHorizontalFlip()]) if self.flip else crop
        object.__setattr__(self, "_transform", whole)  # a frozen dataclass sets what it derives so

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        with _torch_seeded(seed):
            return self._transform(image)


@dataclass(frozen=True, eq=False)
class Timm:
    """timm's transforms for training, up to the bytes that its loaders give to a GPU."""

    transform: Callable[[Any], Any]
    whole: bool = True

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        with _torch_seeded(seed), _python_seeded(seed):
            return torch.as_tensor(self.transform(TF.to_pil_image(image)))


def augmentation(name: str, auto_augment: str | None, recipe: Preprocessing) -> Augmentation:
    """Return an augmentation for a network's images.

    Args:
        name: One of `AUGMENTATIONS`. ``auto`` is ``crop-flip`` for small images in colour, ``crop`` for small
            grey ones, which often are digits or letters, and ``timm`` for large ones.
        auto_augment: What timm's ``auto_augment`` takes, such as ``rand-m9-mstd0.5``.
        recipe: Of the network.

    Raises:
        UsageError: where there is no such augmentation or it does not fit the images.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f"unknown augmentation {name!r}", hint=f"choose from {', '.join(AUGMENTATIONS)}")
    if name == "auto":
        small = "crop" if recipe.channels == 1 else "crop-flip"
        name = small if is_small(recipe) else "timm"
    if auto_augment is not None and name != "timm":
        raise UsageError(
            f"auto_augment is timm's, it does not go with the augmentation {name!r}",
            hint="leave it out, or choose the augmentation 'timm'",
        )
    if name == "none":
        return Unchanged()
    if name == "timm":
        return Timm(_timm_transform(recipe, auto_augment))
    if not is_small(recipe):
        raise UsageError(
            f"the augmentation {name!r} is for images of at most 64x64 pixels that are not scaled",
            hint="choose 'timm' or 'none'",
        )
    return CropFlip(recipe, flip=name == "crop-flip")


def _timm_transform(recipe: Preprocessing, auto_augment: str | None) -> Callable[[Any], Any]:
    from timm.data.transforms_factory import create_transform  # timm takes a second to import

    if auto_augment is not None:
        policy, *settings = auto_augment.split("-")
        # timm passes over settings that it does not know; all that it knows have a number or begin with t.
        if policy not in _POLICIES or not all(re.match(r"t|[a-z]+\d", setting) for setting in settings):
            raise _unknown_policy(auto_augment)
        if recipe.channels == 1:
            raise UsageError(
                "auto_augment is for images in colour, the network takes grey ones", hint="leave it out"
            )
    try:
        transform: Any = create_transform(
            (recipe.channels, recipe.height, recipe.width),
            is_training=True,
            use_prefetcher=True,
            auto_augment=auto_augment,
            interpolation=recipe.interpolation,
            mean=recipe.mean,
            std=recipe.std,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        if auto_augment is None:
            raise
        raise _unknown_policy(auto_augment) from error
    _mend_posterizing(transform)
    return transform


def _mend_posterizing(transform: Any) -> None:
    """Let timm's transform give a black image where it asks for no bits at all.

    Pillow's own answer was that too, until version 13 refused the question.
    """
    for step in transform.transforms:
        operations = [*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))]
        for operation in operations:
            posterize: Any = getattr(operation, "aug_fn", None)
            if getattr(posterize, "__name__", "") == "posterize":
                operation.aug_fn = partial(_posterized, posterize)


def _posterized(posterize: Callable[..., Image], image: Image, bits: int, **settings: Any) -> Image:
    return posterize(image, bits, **settings) if bits > 0 else new_image(image.mode, image.size)


def _unknown_policy(auto_augment: str) -> UsageError:
    return UsageError(
        f"timm knows no auto_augment {auto_augment!r}",
        hint=f"choose from {', '.join(_POLICIES)}, with settings such as rand-m9-mstd0.5",
    )


def item_seed(seed: int, epoch: int, index: int) -> int:
    """Return 64 bits that depend on all three numbers and show no pattern."""
    digest = blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@contextmanager
def _torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator on the CPU, which torchvision draws from, and give it back as it was."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


@contextmanager
def _python_seeded(seed: int) -> Iterator[None]:
    """Do the same with the generators of Python and numpy, which timm draws from as well."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
