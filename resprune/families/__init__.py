"""Architecture families: one file, one entry in `FAMILIES` each. `CONTRIBUTING.md` says how to add one."""

from __future__ import annotations

import torch
from torch import nn

from resprune.errors import ArchitectureError
from resprune.families.base import Family, Part, Parts, Weights
from resprune.families.cifar_resnet import CifarResNets
from resprune.families.preact import PreAct
from resprune.families.torchvision_resnet import TorchvisionResNet
from resprune.records import WHOLE, Architecture

FAMILIES: tuple[Family, ...] = (TorchvisionResNet(), CifarResNets(), PreAct())

__all__ = ["FAMILIES", "Family", "Part", "Parts", "Weights", "build", "family_of", "recognise", "reduce"]


def family_of(architecture: Architecture) -> Family:
    """Return the adapter that an architecture names.

    Raises:
        ArchitectureError: where no family has that name.
    """
    for family in FAMILIES:
        if family.name == architecture.family:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ArchitectureError(f"unknown family {architecture.family!r}, known are {known}")


def recognise(weights: Weights) -> Architecture | None:
    """Return the first family's answer to what names and shapes tell, or None."""
    return next((found for family in FAMILIES if (found := family.recognise(weights)) is not None), None)


def build(architecture: Architecture, device: str = "meta") -> nn.Module:
    """Return a native network with the architecture's blocks and bare skip steps, in eval mode.

    Args:
        architecture: Any, reduced ones included.
        device: On ``meta``, parameters have shapes and no storage.
    """
    family = family_of(architecture)
    with torch.device(device):
        network = family.build(architecture).eval()
    reduce(network, family.split(network, architecture), architecture.stages)
    return network


def reduce(network: nn.Module, parts: Parts, stages: tuple[str, ...]) -> None:
    """Cut a network, in place, down to the blocks and bare skip steps that ``stages`` names.

    Args:
        network: A native network whose blocks live in one `nn.Sequential` a stage.
        parts: Its split.
        stages: As `Architecture.stages`, with one letter for each of the parts, or a blank for a block
            that goes altogether. A stage without letters loses all its blocks.
    """
    for stage, letters in enumerate(stages):
        mine = [part for part in parts.blocks if part.stage == stage]
        if letters == WHOLE * len(mine):
            continue
        kept = [
            part.module if letter == WHOLE or part.branch is None else part.step()
            for part, letter in zip(mine, letters, strict=bool(letters))
            if letter != " "
        ]
        network.set_submodule(mine[0].path.rpartition(".")[0], nn.Sequential(*kept))
