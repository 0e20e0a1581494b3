"""A checkpoint becomes a `ResidualChain`: recognised, built, filled strictly, checked block by block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from resprune import families
from resprune.chain import ExitStatistics, ResidualChain, assemble, seeded_images
from resprune.checkpoint import Checkpoint
from resprune.errors import ArchitectureError
from resprune.records import Architecture, Origin, Preprocessing

SELF_CHECK_TOLERANCE = 1e-4
"""Largest deviation of a block from activation(skip + branch), relative to its largest output."""
_SELF_CHECK_SIZE = 64


def open_chain(checkpoint: Checkpoint, preprocessing: Preprocessing | None = None) -> ResidualChain:
    """Turn a checkpoint into the chain of its network, checked block by block.

    Args:
        checkpoint: As `resprune.checkpoint.read` returns it; its tensors are copied.
        preprocessing: Overrides what the checkpoint or its family says.

    Raises:
        ArchitectureError: where the weights are of no known family, do not fit the architecture exactly,
            or a block is not activation(skip + branch).
    """
    architecture, origin = identify(checkpoint)
    # Copied into memory of torch's own: kernels choose their path by alignment, which a mapped file lacks,
    # and the same weights would give other last bits.
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.weights.items()
    }
    try:
        network = families.build(architecture)
    except ArchitectureError as error:
        raise ArchitectureError(error.what, where=origin.path, hint="a newer resprune may know it") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArchitectureError(
            f"no network of the family {architecture.family} can be built ({type(error).__name__}: {error})",
            where=origin.path,
            hint="the config or the weights may be damaged",
        ) from error
    try:
        network.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ArchitectureError(
            f"the weights do not fit {architecture.name} ({_first_mismatch(error)})",
            where=origin.path,
            hint="resprune inspect shows what was recognised",
        ) from error
    network.requires_grad_(False)
    chain = assemble(
        network,
        architecture,
        preprocessing or recipe(checkpoint, architecture),
        origin,
        {path: ExitStatistics(*pair) for path, pair in checkpoint.exit_statistics.items()},
    )
    _check_preprocessing(chain)
    _check_exit_statistics(chain)
    check_split(chain)
    return chain


def identify(checkpoint: Checkpoint) -> tuple[Architecture, Origin]:
    """Return what the checkpoint's metadata says of its architecture, else what names and shapes tell.

    Raises:
        ArchitectureError: where neither does.
    """
    architecture = checkpoint.architecture
    if architecture is not None:
        return architecture, checkpoint.origin
    architecture = families.recognise(checkpoint.weights)
    if architecture is None:
        sample = ", ".join(list(checkpoint.weights)[:3])
        known = ", ".join(family.name for family in families.FAMILIES)
        raise ArchitectureError(
            f"no residual network that resprune knows: {len(checkpoint.weights)} tensors, first {sample}",
            where=checkpoint.origin.path,
            hint=f"the families read so far are {known}",
        )
    assumed = families.family_of(architecture).assumptions(architecture)
    notes = (*checkpoint.origin.notes, *(f"assumed: {text}" for text in assumed))
    return architecture, replace(checkpoint.origin, notes=notes)


def recipe(checkpoint: Checkpoint, architecture: Architecture) -> Preprocessing:
    """Return the checkpoint's preprocessing, else its family's known one."""
    return checkpoint.preprocessing or families.family_of(architecture).preprocessing(architecture)


@torch.inference_mode()
def check_split(chain: ResidualChain) -> None:
    """Check on seeded inputs that every block is activation(skip + branch) and trivial steps are trivial.

    Raises:
        ArchitectureError: naming the first block for which it does not hold.
    """
    x = chain.stem(seeded_images(chain.preprocessing, 1, seed=0, size=_SELF_CHECK_SIZE))
    for block in chain.blocks:
        for step in block.lead:
            x = step(x)
        part = block.part
        out = part.module(x)
        apart = part.activation(part.skip(x) + block.branch(x))
        bound = SELF_CHECK_TOLERANCE * out.abs().max()
        if not bool((out - apart).abs().max() <= bound):
            raise ArchitectureError(
                "the block is not activation(skip + branch)",
                where=f"{chain.origin.path}, {part.path}",
                hint="its weights may be damaged, or it belongs to another family",
            )
        if part.step_is_trivial and not torch.equal(part.activation(x.clone()), x):
            raise ArchitectureError(
                "the block's input is not what its activation leaves unchanged",
                where=f"{chain.origin.path}, {part.path}",
            )
        x = out


def _check_preprocessing(chain: ResidualChain) -> None:
    takes = next(layer.in_channels for layer in chain.stem.modules() if isinstance(layer, nn.Conv2d))
    if chain.preprocessing.channels != takes:
        raise ArchitectureError(
            f"the network takes {takes} channels, its preprocessing gives {chain.preprocessing.channels}",
            where=chain.origin.path,
            hint="mend the preprocessing in its config",
        )


def _check_exit_statistics(chain: ResidualChain) -> None:
    norms = {path: layer for layer, path in chain.named_norms().items()}
    for path, (mean, var) in chain.exit_statistics.items():
        norm = norms.get(path)
        shape = None if norm is None else (mean.shape[0], norm.num_features)  # pyright: ignore[reportAttributeAccessIssue]
        if mean.shape != shape or var.shape != shape or not 0 < mean.shape[0] <= chain.depth:
            raise ArchitectureError(
                f"exit statistics {tuple(mean.shape)} do not fit the norm {path!r}",
                where=chain.origin.path,
                hint="write the folder again with resprune",
            )


def _first_mismatch(error: RuntimeError) -> str:
    lines = str(error).splitlines()
    return " ".join((lines[1] if len(lines) > 1 else lines[0]).split())[:200]
