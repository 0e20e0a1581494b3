"""Architecture families: one file, one entry in `FAMILIES` each. `CONTRIBUTING.md` says how to add one."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from resprune.errors import ArchitectureError
from resprune.families import timm_nets
from resprune.families.base import Family, Part, Parts, Weights, chop, named
from resprune.families.cifar_preact import CifarPreAct
from resprune.families.cifar_resnet import CifarResNets
from resprune.families.preact import PreAct
from resprune.families.refusals import refusal
from resprune.families.timm_nets import TimmNets
from resprune.families.torchvision_regnet import TorchvisionRegNet
from resprune.families.torchvision_resnet import TorchvisionResNet
from resprune.records import GONE, WHOLE, Architecture, Assumption, Claim

FAMILIES: tuple[Family, ...] = (
    TorchvisionResNet(),
    TorchvisionRegNet(),
    CifarResNets(),
    CifarPreAct(),
    PreAct(),
    TimmNets(),
)

__all__ = [
    "FAMILIES",
    "Family",
    "Part",
    "Parts",
    "Weights",
    "build",
    "chop",
    "family_of",
    "named",
    "recognise",
    "reduce",
    "refusal",
]


def family_of(architecture: Architecture) -> Family:
    """Return the adapter that an architecture names.

    Raises:
        ArchitectureError: where no family has that name.
    """
    for family in FAMILIES:
        if family.name == architecture.family:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ArchitectureError(
        f"unknown family {architecture.family!r}, known are {known}",
        hint="where it is your own, resprune.load(folder, family=...) takes its adapter",
    )


def by_name(claim: Claim, weights: Weights) -> Architecture | None:
    """Return the first family's answer to a name that metadata or the user gives, or None."""
    return next((found for family in FAMILIES if (found := family.by_name(claim, weights)) is not None), None)


def recognise(weights: Weights) -> Architecture | None:
    """Return the first family's answer to what names and shapes tell, or None."""
    return next((found for family in FAMILIES if (found := family.recognise(weights)) is not None), None)


def assumptions(architecture: Architecture, family: Family, weights: Weights) -> tuple[Assumption, ...]:
    """Return what the names and shapes of weights do not tell about the architecture taken for them."""
    return (*family.assumptions(architecture), *timm_nets.arch_assumption(architecture, weights))


def candidates(weights: Weights) -> tuple[str, ...]:
    """Return the names that ``--arch`` takes for these weights, each once."""
    names: list[str] = []
    for family in FAMILIES:
        found = family.recognise(weights)
        if found is not None:
            others = (own.others for own in assumptions(found, family, weights) if own.name == "arch")
            names += [found.name, *(name for more in others for name in more)]
    return tuple(dict.fromkeys(names))


def build(architecture: Architecture, device: str = "meta", family: Family | None = None) -> nn.Module:
    """Return a native network with the architecture's blocks and bare skip steps, in eval mode.

    Args:
        architecture: Any, reduced ones included.
        device: On ``meta``, parameters have shapes and no storage.
        family: Where it is none of `FAMILIES`.
    """
    family = family or family_of(architecture)
    try:
        with torch.device(device), _NoFills() if device == "meta" else nullcontext():
            network = family.build(architecture).eval()
    except NotImplementedError:  # older timm computes the widths of a RegNet with tensors
        network = family.build(architecture).eval().to(device)
    reduce(network, family.split(network, architecture), architecture.stages)
    return network


class _NoFills(TorchFunctionMode):
    """Leave out initialisation, which for parameters without storage is most of a constructor's time."""

    _FILLS = frozenset(
        {
            *(Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_),
            *(init.kaiming_normal_, init.kaiming_uniform_, init.constant_, init.uniform_, init.normal_),
        }
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self._FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def reduce(network: nn.Module, parts: Parts, stages: tuple[str, ...]) -> None:
    """Cut a network, in place, down to the blocks and bare skip steps that ``stages`` names.

    Args:
        network: A native network whose blocks are the children of modules that run their children in turn.
        parts: Its split.
        stages: As `Architecture.stages`, with one letter for each of the parts; a block of the letter
            `GONE` goes altogether, and a stage without letters loses all its blocks.
    """
    containers: dict[str, list[tuple[Part, str]]] = {}
    for stage, letters in enumerate(stages):
        mine = [part for part in parts.blocks if part.stage == stage]
        if letters and len(letters) != len(mine):
            raise ArchitectureError(
                f"stage {stage} has {len(mine)} blocks as it was built, and its letters are {letters!r}",
                hint="build must return the network with every block whole",
            )
        for part, letter in zip(mine, letters or GONE * len(mine), strict=True):
            containers.setdefault(part.path.rpartition(".")[0], []).append((part, letter))
    for container, blocks in containers.items():
        if all(letter == WHOLE for _, letter in blocks):
            continue
        kept = [
            part.module if letter == WHOLE or part.branch is None else part.step()
            for part, letter in blocks
            if letter != GONE
        ]
        # The first of the old names, so that a shorter stage is named as the family names it.
        names = [part.path.rpartition(".")[2] for part, _ in blocks]
        shorter = nn.Sequential(OrderedDict(zip(names, kept, strict=False))).train(network.training)
        network.set_submodule(container, shorter)
