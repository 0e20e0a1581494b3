"""The compatible form: blocks that are missing are whole again, with a branch whose last layer is zero.

Stock classes have no stage of which only the projection is left, and none without blocks. A branch that ends
in a norm (or a convolution) of zeros adds nothing, so the network stays exactly what it is; what it costs are
the multiply-accumulates and parameters of those blocks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.errors import UsageError
from resprune.families import Part
from resprune.records import BARE, GONE, WHOLE, Architecture


def whole_architecture(architecture: Architecture) -> Architecture:
    """Return the architecture with every missing block whole again, one in a stage that has none."""
    stages = tuple(WHOLE * max(1, len(letters)) for letters in architecture.stages)
    return replace(architecture, stages=stages)


def restore(chain: ResidualChain, seed: int = 0) -> ResidualChain:
    """Return the compatible form of a network: the same function, every stage whole.

    Restored branches have the constructor's initial weights but for the last layer: they can be trained.

    Args:
        chain: Left as it is; nothing is shared with the result.
        seed: Of those weights.

    Raises:
        UsageError: where nothing is missing, or a restored branch has no last layer to set to zero.
    """
    old = chain.architecture
    if old.is_stock:
        raise UsageError(
            "every stage is a run of whole blocks already", where=chain.origin.path, hint="leave --zeroed out"
        )
    architecture = whole_architecture(old)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = families.build(architecture, "cpu", chain.family).requires_grad_(False)
    parts = chain.family.split(network, architecture).blocks
    inside = tuple(f"{part.path}." for part in chain.parts)
    known = chain.network.state_dict()
    kept = {name: tensor for name, tensor in known.items() if not name.startswith(inside)}
    for stage, letters in enumerate(old.stages):
        new = [part for part in parts if part.stage == stage]
        there = iter([part for part in chain.parts if part.stage == stage])
        for part, letter in zip(new, letters or GONE, strict=True):
            if letter != GONE:
                own = next(there).module.state_dict()
                kept |= {f"{part.path}.{name}": tensor for name, tensor in own.items()}
            if letter in (GONE, BARE):
                _silence(part, chain.origin.path)
    network.load_state_dict(network.state_dict() | kept, strict=True)
    return assemble(network, architecture, chain.preprocessing, chain.origin, family=chain.family)


def _silence(part: Part, where: str) -> None:
    """Set the last layer of a branch to zero, in place."""
    last = [
        layer
        for layer in (part.branch or ())
        if isinstance(layer, nn.Conv2d | nn.modules.batchnorm._BatchNorm) and layer.weight is not None
    ]
    if not last:
        raise UsageError(
            f"the branch of {part.path} has no last norm or convolution to set to zero",
            where=where,
            hint="--format onnx, torch-export and safetensors take the network as it is",
        )
    nn.init.zeros_(last[-1].weight)
    if last[-1].bias is not None:
        nn.init.zeros_(last[-1].bias)
