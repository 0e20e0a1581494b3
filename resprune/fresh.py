"""The paper's networks from scratch: a name and what is known of the training images -> `ResidualChain`.

Source: Puettschneider et al. 2025, appendix A.1 and table 1.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn import init

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.errors import UsageError
from resprune.families import preact
from resprune.records import Architecture, Origin, Preprocessing, Survey

FORMS = ("paper-homogeneous-N", "paper-standard-N")
"""The names, N being the number of residual blocks."""

FROM_SCRATCH = "from scratch"
"""Format of the origin of such a network."""
_NAME = re.compile(r"paper-(homogeneous|standard)-([1-9][0-9]{0,3})")
_MEANT = re.compile(r"paper[-_][^/\\.]*")
_FILTERS, _FILTERS_OF_GREY = 64, 32
_STAGES = [16, 32, 64]


def is_name(name: str) -> bool:
    """Whether a string is meant as the name of a network from scratch, rightly spelt or not.

    The disk is not looked at. What begins with ``paper-`` and is a file or folder is named by a path with a
    slash or a dot, such as ``./paper-homogeneous-54``.
    """
    return _MEANT.fullmatch(name) is not None


def fresh(name: str, survey: Survey, *, seed: int) -> ResidualChain:
    """Return one of the paper's networks, untrained, for the images that a survey describes.

    The stem is a 3x3 convolution, batch norm and ReLU; a block has two 3x3 convolutions, and a 1x1
    projection where width or size changes; the head is batch norm, ReLU, global average pool and a linear
    layer. The chain is on the CPU, like one that was read from a file.

    Args:
        name: ``paper-homogeneous-N``: one stage of N blocks, 64 filters, or 32 for images of one channel.
            ``paper-standard-N``: three stages of N/3 blocks, 16, 32 and 64 filters.
        survey: As `resprune.data.survey` returns it.
        seed: The weights are a function of it, and of nothing else.

    Raises:
        UsageError: where there is no such network.
    """
    architecture = _architecture(name, survey)
    network = families.build(architecture).to_empty(device="cpu")
    initialise(network, torch.Generator().manual_seed(seed))
    recipe = Preprocessing(
        survey.channels,
        survey.height,
        survey.width,
        survey.mean,
        survey.std,
        source=f"measured on {survey.measured:,} training images",
    )
    return assemble(network.requires_grad_(False), architecture, recipe, Origin(name, "", FROM_SCRATCH))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give all layers their first weights, in place and in order.

    Convolutions: He et al. 2015, normal with variance 2 / fan-out, without a bias. Linear layers: uniform
    within 1 / sqrt(fan-in), as torch does. Others: what their own ``reset_parameters`` gives them, which makes
    norms the identity.

    Args:
        network: On the generator's device.
        generator: The weights are a function of it, and of nothing else.

    Raises:
        UsageError: see `check_initialisable`; nothing is changed then.
    """
    check_initialisable(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.modules.batchnorm._NormBase):  # statistics too, and nothing is drawn
            layer.reset_parameters()
        elif _own(layer):
            reset: Any = layer.reset_parameters
            with torch.random.fork_rng(devices=[]):  # it draws from torch's own generator
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                reset()


def check_initialisable(network: nn.Module) -> None:
    """Check that it is known of every parameter what it is before any training.

    Raises:
        UsageError: naming the first of which it is not.
    """
    for path, layer in network.named_modules():
        known = {"weight", "bias"} if isinstance(layer, nn.Conv2d | nn.Linear) else set[str]()
        left = sorted(set(_own(layer)) - known)
        if left and (known or not callable(getattr(layer, "reset_parameters", None))):
            raise UsageError(
                f"{f'{path}.' if path else ''}{left[0]} would keep its trained value from scratch: nothing says"
                f" how a {type(layer).__name__} begins",
                hint="give the layer a method reset_parameters, or leave the control from scratch out",
            )


def _own(layer: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's own parameters, without those of layers inside it."""
    return tuple(name for name, _ in layer.named_parameters(recurse=False))


def _architecture(name: str, survey: Survey) -> Architecture:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"no network from scratch is named {name!r}",
            hint=f"choose {' or '.join(FORMS)}, N >= 1 the number of blocks, such as paper-homogeneous-54",
        )
    kind, blocks = match[1], int(match[2])
    if kind == "homogeneous":
        counts, widths = [blocks], [_FILTERS_OF_GREY if survey.channels == 1 else _FILTERS]
    else:
        counts, widths = _thirds(name, blocks), _STAGES
    return preact.architecture(
        name, counts, list(widths), in_channels=survey.channels, classes=survey.classes, stem_norm=True
    )


def _thirds(name: str, blocks: int) -> list[int]:
    """Return the blocks of three equal stages.

    Raises:
        UsageError: where the number cannot be divided by three.
    """
    stages = len(_STAGES)
    if blocks % stages:
        near = [n for n in (blocks - blocks % stages, blocks - blocks % stages + stages) if n]
        raise UsageError(
            f"{name!r} has {stages} stages of equal length, and {blocks} blocks cannot be divided by {stages}",
            hint=f"choose {' or '.join(f'paper-standard-{n}' for n in near)}",
        )
    return [blocks // stages] * stages
