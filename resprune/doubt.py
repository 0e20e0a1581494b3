"""Which assumption fits: where the accuracy is that of a guess, others are tried on a few labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resprune import families
from resprune.chain import ResidualChain
from resprune.checkpoint import Checkpoint
from resprune.checks import MISFITS
from resprune.errors import ArchitectureError
from resprune.opening import fill
from resprune.reading import Progress, silent
from resprune.records import Architecture, Assumption, Claim, Preprocessing, Remedy
from resprune.trajectory import Batch

IMAGES = 256
"""How many images an assumption is tried on."""
SCREENED = 16
"""So many at a time: some of what is tried costs sixteen times as much as the network itself."""
FAR = 0.7
"""It is given up below this share of the accuracy that it would need, of which a mere guess reaches half."""
DOUBTFUL = 0.5
"""Accuracy below which others are tried; many a sound network is below, and then no other is better."""

_RECIPES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "-1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


class _Trial(NamedTuple):
    """What is tried instead: another network, or inputs of another scale for the same one."""

    flags: str
    architecture: Architecture | None = None
    scale: tuple[Tensor, Tensor] | None = None


@torch.inference_mode()
def remedies(chain: ResidualChain, batches: Iterable[Batch], progress: Progress = silent) -> tuple[Remedy, ...]:
    """Return the assumptions that give at least twice the accuracy of those that were made, best first.

    Args:
        chain: Its origin says what was assumed.
        batches: Labelled; the first `IMAGES` images are read.
        progress: Shown the images done, as if all were looked at.
    """
    images, labels = _few(batches)
    if labels is None:
        return ()
    trials, found = _trials(chain), list[Remedy]()
    with progress("try assumptions", (1 + len(trials)) * len(images)) as on_images:
        before = _accuracy(chain.network, images, labels, chain.device)
        on_images(len(images))
        # Twice as good, and by more than chance among the trials would give.
        wanted = max(2 * before, before + 0.1)
        for trial in trials:
            network = _network(chain, trial)
            inputs = images if trial.scale is None else images * trial.scale[0] + trial.scale[1]
            accuracy = 0.0 if network is None else _accuracy(network, inputs, labels, chain.device, wanted)
            if accuracy >= wanted:
                found.append(Remedy(trial.flags, accuracy, before, len(images)))
            on_images(len(images))
    return tuple(sorted(found, key=lambda remedy: -remedy.accuracy))


def _few(batches: Iterable[Batch]) -> tuple[Tensor, Tensor | None]:
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch, targets in batches:
        if targets is None:
            return batch, None
        images.append(batch)
        labels.append(targets)
        if sum(map(len, images)) >= IMAGES:
            break
    inputs, known = torch.cat(images)[:IMAGES], torch.cat(labels)[:IMAGES]
    # Class folders are sorted by class: their first images would be no sample to give anything up on.
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return inputs[order], known[order]


def _accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, device: torch.device, wanted: float = 0.0
) -> float:
    """Return the accuracy, of the first images alone where that is far below the one wanted."""
    hits = seen = 0
    for few, targets in zip(images.split(SCREENED), labels.split(SCREENED), strict=True):
        logits = network(few.to(device, memory_format=torch.channels_last))
        hits += int((logits.argmax(1).cpu() == targets).sum())
        seen += len(few)
        if hits < FAR * wanted * seen:
            break
    return hits / seen


def _trials(chain: ResidualChain) -> list[_Trial]:
    trials = [_Trial(flags, architecture) for flags, architecture in _architectures(chain)]
    recipe = chain.preprocessing
    if recipe.channels == 3:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
        for new_mean, new_std in _RECIPES.values():
            if (new_mean, new_std) != (recipe.mean, recipe.std):
                scale = std / torch.tensor(new_std).view(3, 1, 1)
                shift = (mean - torch.tensor(new_mean).view(3, 1, 1)) / torch.tensor(new_std).view(3, 1, 1)
                flags = f"--mean {_comma(new_mean)} --std {_comma(new_std)}"
                trials.append(_Trial(flags, scale=(scale, shift)))
    return trials


def _network(chain: ResidualChain, trial: _Trial) -> nn.Module | None:
    """Return what is tried; None where it cannot be run on these images, which it was not made for then."""
    if trial.architecture is None:
        return chain.network
    checkpoint = Checkpoint(dict(chain.network.state_dict()), chain.origin)
    try:
        network = fill(checkpoint, trial.architecture, families.family_of(trial.architecture)).to(chain.device)
        network(torch.zeros(1, *_input(chain.preprocessing), device=chain.device))
    except (*MISFITS, ArchitectureError):
        return None
    return network


def _architectures(chain: ResidualChain) -> Iterator[tuple[str, Architecture]]:
    """Yield every other combination of what was assumed, with the flags that choose it."""
    open_choices = chain.origin.assumptions
    own = [assumption for assumption in open_choices if assumption.name != "arch"]
    for values in product(*((choice.value, *choice.others) for choice in own)):
        architecture = chain.architecture
        changed: list[tuple[Assumption, str]] = []
        for choice, value in zip(own, values, strict=True):
            if value != choice.value:
                architecture = chain.family.assume(architecture, choice.name, value)
                changed.append((choice, value))
        if changed:
            yield " ".join(choice.flag(value) for choice, value in changed), architecture
    weights = chain.network.state_dict()
    for choice in open_choices:
        for value in choice.others if choice.name == "arch" else ():
            found = families.by_name(Claim(value), weights)
            if found is not None:
                yield choice.flag(value), replace(found, stages=chain.architecture.stages)


def _input(recipe: Preprocessing) -> tuple[int, int, int]:
    return recipe.channels, recipe.height, recipe.width


def _comma(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
