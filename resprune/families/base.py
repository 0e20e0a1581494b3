"""What an architecture family provides, and the pieces into which it splits a network."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from resprune.errors import ArchitectureError
from resprune.families.layers import BareStep
from resprune.records import GONE, Architecture, Assumption, Claim, Preprocessing, Variants

Weights = Mapping[str, Tensor]

LAYERS = r"layer(?P<stage>[0-9]{1,4})\.(?P<block>[0-9]{1,4})\.(?P<child>[^.]+)\."
"""Names of parameters as torchvision's stages ``layer1, layer2, ...`` give them; see `block_counts`."""


@dataclass(frozen=True)
class Part:
    """One block of a native network, ``x -> a(S(x) + F(x))``, taken apart without copying anything.

    Attributes:
        path: Name in the native network, such as ``layer1.0``.
        stage: Zero-based.
        module: The native block itself; a `BareStep` where the branch was removed.
        skip: S, children under their native names; empty for the identity.
        branch: F; None where it was removed.
        activation: a; `nn.Identity` in pre-activation networks.
    """

    path: str
    stage: int
    module: nn.Module
    skip: nn.Sequential
    branch: nn.Sequential | None
    activation: nn.Module

    @property
    def step_is_trivial(self) -> bool:
        """Whether the skip step passes its input on unchanged.

        ReLU counts as unchanged after an identity: in every family that has it there, the block's input
        is the output of a ReLU already, and opening a checkpoint checks it. SiLU or GELU would not.
        """
        return len(self.skip) == 0 and isinstance(self.activation, nn.Identity | nn.ReLU)

    def step(self) -> BareStep:
        """Return the skip step s = a(S(.)) as a module that shares the native layers.

        The activation is copied so that it never works in place: with an identity skip it would
        overwrite the block's input.
        """
        activation = copy.copy(self.activation)
        if getattr(activation, "inplace", False):
            activation.inplace = False  # pyright: ignore[reportArgumentType]
        layers = OrderedDict(self.skip.named_children())
        if not isinstance(activation, nn.Identity):
            layers["relu" if isinstance(activation, nn.ReLU) else "act"] = activation
        return BareStep(layers)


@dataclass(frozen=True)
class Parts:
    """A native network as stem, blocks and head; all three share the native layers."""

    stem: nn.Sequential
    blocks: tuple[Part, ...]
    head: nn.Sequential


class Family(ABC):
    """One architecture family: recognise its weights, build its networks, split them into parts.

    `name` and `split` are all that a network handed over as a module needs (`resprune.wrap`); what reads
    checkpoints and writes folders needs the rest. Every architecture has the options ``classes`` and
    ``in_channels``.
    """

    name: str

    def __deepcopy__(self, memo: object) -> Family:
        return self  # an adapter has no state: the copy of a network belongs to the same one

    @abstractmethod
    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        """Take a native network apart; blocks may have been reduced to `BareStep` before."""

    def recognise(self, weights: Weights) -> Architecture | None:
        """Return the architecture that names and shapes tell, or None where they are not this family's.

        Args:
            weights: A state dict; of its tensors nothing but the shapes may be looked at.
        """
        return None

    def by_name(self, claim: Claim, weights: Weights) -> Architecture | None:
        """Return the architecture that metadata or the user names, or None where this family has no such.

        The name says what shapes cannot; blocks, classes and channels are the weights' own.
        """
        found = self.recognise(weights)
        return found if found is not None and found.name == claim.name else None

    def build(self, architecture: Architecture) -> nn.Module:
        """Return a native network with every block whole; weights as the constructor leaves them.

        A stage without letters is built with one block. `resprune.families.build` cuts both down.
        """
        raise ArchitectureError(
            f"the family {self.name!r} has no build",
            hint="give the adapter a method build that returns the network with every block whole",
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        """Whether `build` gives the stages as many blocks as they have letters.

        Where it does not, it returns the network as it was, and removed blocks keep a letter.
        """
        return False

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        """Return the family's known recipe for its inputs."""
        raise ArchitectureError(
            f"no preprocessing is known for the family {self.name!r}",
            hint="pass a Preprocessing, or --input-size, --mean and --std",
        )

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        """Return what names and shapes do not tell, with the values that would load as well.

        ``architecture.options[assumption.name]`` is the value, unless `assume` says otherwise.
        """
        return ()

    def assume(self, architecture: Architecture, name: str, value: str) -> Architecture:
        """Return the architecture with another value of one of its assumptions."""
        kind = type(architecture.options.get(name, value))
        return replace(architecture, options={**architecture.options, name: kind(value)})

    def timm_config(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return ``architecture`` and ``model_args`` for plain timm, or None where it has no such class."""
        return None

    def torchvision_constructor(self, architecture: Architecture) -> str | None:
        """Return the expression that builds the network with torchvision alone, or None where there is none."""
        return None

    def hugging_face_config(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return the config of transformers' ResNetForImageClassification, or None where it is none."""
        return None

    def variants(self) -> tuple[Variants, ...]:
        """Return the networks that the family covers, for the documentation."""
        return (Variants(self.name, ()),)


def named(**layers: nn.Module) -> nn.Sequential:
    """Return the layers as a sequence that keeps their native names."""
    return nn.Sequential(OrderedDict(layers))


def chop(
    network: nn.Module, containers: Sequence[str], part_of: Callable[[str, int, nn.Module], Part]
) -> tuple[Part, ...]:
    """Split every block of the `nn.Sequential` stages at ``containers``, bare steps included.

    Args:
        network: The native network.
        containers: Path of every stage.
        part_of: Splits one whole block, given its path, stage and module.
    """
    return tuple(
        _part_at(f"{container}.{name}", stage, block, part_of)
        for stage, container in enumerate(containers)
        for name, block in network.get_submodule(container).named_children()
    )


def chop_flat(
    network: nn.Module, container: str, stages: Sequence[str], part_of: Callable[[str, int, nn.Module], Part]
) -> tuple[Part, ...]:
    """Split the blocks of one `nn.Sequential` that holds all stages in a row, bare steps included.

    Args:
        network: The native network, with the blocks of ``stages``, or as `Family.build` leaves it.
        container: The sequence's path.
        stages: As `Architecture.stages`; they tell which stage a block belongs to.
        part_of: Splits one whole block, given its path, stage and module.
    """
    blocks = list(network.get_submodule(container).named_children())
    counts = [len(letters) - letters.count(GONE) for letters in stages]
    if sum(counts) != len(blocks):
        counts = [max(1, len(letters)) for letters in stages]
    owners = [stage for stage, count in enumerate(counts) for _ in range(count)]
    return tuple(
        _part_at(f"{container}.{name}", stage, block, part_of)
        for stage, (name, block) in zip(owners, blocks, strict=True)
    )


def _part_at(path: str, stage: int, block: nn.Module, part_of: Callable[[str, int, nn.Module], Part]) -> Part:
    if isinstance(block, BareStep):
        return Part(path, stage, block, block, None, nn.Identity())
    return part_of(path, stage, block)


def block_counts(
    weights: Weights, block_keys: set[str], pattern: str = LAYERS, first: int = 1
) -> list[int] | None:
    """Return the number of blocks of every stage, or None where the names are others.

    Args:
        weights: A state dict.
        block_keys: Names of children that a block of the family may have.
        pattern: Of a parameter's name, with the groups ``block``, ``child`` and, where the stages are apart,
            ``stage``.
        first: Number of the first stage.
    """
    found: dict[int, set[int]] = {}
    for key in weights:
        match = re.match(pattern, key)
        if match is None:
            continue
        if match["child"] not in block_keys:
            return None
        stage = int(match.groupdict().get("stage", first)) - first
        found.setdefault(stage, set()).add(int(match["block"]))
    counts = [len(found.get(stage, ())) for stage in range(len(found))]
    whole = all(positions == set(range(len(positions))) for positions in found.values())
    return counts if counts and all(counts) and whole else None


def other_values(value: object, values: Iterable[str]) -> tuple[str, ...]:
    """Return the values of an assumption that were not taken."""
    return tuple(other for other in values if other != str(value))


def recipe_for(
    channels: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    source: str,
    resize: int | None = None,
) -> Preprocessing:
    """Return a recipe for square images of known mean and deviation, 0.5 for other numbers of channels."""
    if channels != len(mean):
        source, mean, std = "none known for such images", (0.5,) * channels, (0.5,) * channels
    return Preprocessing(channels, size, size, mean, std, resize, source=f"{source}, assumed")


def channels_of(weights: Weights, key: str) -> int:
    """Return the input channels of the convolution at ``key``, or 0 where it is none."""
    return weights[key].shape[1] if weights[key].ndim == 4 else 0


def outputs_of(weights: Weights, key: str) -> int:
    """Return the outputs of the layer at ``key``, or 0 where it is none."""
    return len(weights[key]) if key in weights and weights[key].ndim > 1 else 0
