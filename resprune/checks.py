"""A chain is checked against the network that it views: on seeded inputs, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain, seeded_images
from resprune.errors import ArchitectureError, UsageError
from resprune.families import Part

SELF_CHECK_TOLERANCE = 1e-4
"""Largest deviation of a block from activation(skip + branch), relative to its largest output."""
MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch and adapters raise where a network is not what they were told."""
_SELF_CHECK_SIZE = 64


def check_chain(chain: object, *others: type) -> None:
    """Check that a network is a chain; what `resprune.prune` and `resprune.finetune` return only holds one.

    Args:
        chain: The network.
        others: Further kinds that will do.

    Raises:
        UsageError: says what was given, and what to give.
    """
    if not isinstance(chain, (ResidualChain, *others)):
        kind = type(chain).__name__
        held = isinstance(getattr(chain, "chain", None), ResidualChain)
        hint = f"give the {kind}'s .chain" if held else "resprune.load and resprune.wrap return one"
        raise UsageError(f"expected a ResidualChain, got {kind}", hint=hint)


def check_mode(network: nn.Module, where: str) -> None:
    """Check that all of a network is in eval mode: figures are of that, and forward passes leave it as it is.

    Raises:
        UsageError: naming the first module in training mode.
    """
    training = next((path for path, module in network.named_modules() if module.training), None)
    if training is not None:
        raise UsageError(
            f"{training or 'the network'} is in training mode", where=where, hint="call network.eval() first"
        )


@contextmanager
def full_float32() -> Iterator[None]:
    """Let GPUs compute with all bits of float32 meanwhile, as every tolerance of a comparison assumes.

    TF32, in which torch convolves where it can, has 10 of their 23 digits: two ways to the same logits then
    differ by 1e-3 of them.
    """
    cudnn: Any = torch.backends.cudnn  # torch's annotations do not have all of it
    # By these names alone: once `allow_tf32` was used beside them, torch refuses to read it.
    settings: tuple[Any, ...] = (cudnn.conv, torch.backends.cuda.matmul)
    before = [own.fp32_precision for own in settings]
    try:
        for own in settings:
            own.fp32_precision = "ieee"
        yield
    finally:
        for own, was in zip(settings, before, strict=True):
            own.fp32_precision = was


@full_float32()
@torch.inference_mode()
def check_split(chain: ResidualChain) -> None:
    """Check on seeded inputs that every block is activation(skip + branch) and trivial steps are trivial.

    Raises:
        ArchitectureError: naming the first block for which it does not hold.
    """
    try:
        _check_split(chain, _SELF_CHECK_SIZE)
    except MISFITS:  # attention may take images of its own size only
        try:
            _check_split(chain, None)
        except MISFITS as error:
            recipe = chain.preprocessing
            raise ArchitectureError(
                f"the blocks cannot be run on images {recipe.height} x {recipe.width} ({_reason(error)})",
                where=chain.origin.path,
                hint="give the size that the network was trained on, --input-size",
            ) from error


def _check_split(chain: ResidualChain, size: int | None) -> None:
    x = chain.stem(seeded_images(chain.preprocessing, 1, seed=0, size=size).to(chain.device))
    for block in chain.blocks:
        for step in block.lead:
            x = step(x)
        part = block.part
        before = x.clone()
        out = part.module(x)
        if not torch.equal(before, x):
            raise ArchitectureError(
                "the block changes its input in place, which the exits need as it was",
                where=f"{chain.origin.path}, {part.path}",
                hint="make its first activation one that is not inplace",
            )
        apart = _apart(part, x, chain.origin.path)
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
                hint="where the input can be negative, an identity skip is named(identity=nn.Identity())",
            )
        x = out


def _apart(part: Part, x: Tensor, where: str) -> Tensor:
    """Return a block's output, put together from its pieces."""
    assert part.branch is not None
    try:
        return part.activation(part.skip(x) + part.branch(x))
    except MISFITS as error:
        raise ArchitectureError(
            f"its skip and branch cannot be run and added ({_reason(error)})",
            where=f"{where}, {part.path}",
            hint="mend split",
        ) from error


def _reason(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])


@full_float32()
@torch.inference_mode()
def check_network(chain: ResidualChain) -> int:
    """Check on a seeded input that the native network computes what the chain does; returns its logits' number.

    Raises:
        ArchitectureError: where it does not, or cannot be run.
    """
    images = seeded_images(chain.preprocessing, 1, seed=0)
    images = images.to(chain.device, memory_format=torch.channels_last)  # as `measure` hands them over
    shape = tuple(images.shape[1:])
    try:
        logits, apart = chain.network(images), chain(images)
        if logits.ndim != 2 or logits.shape != apart.shape:
            raise ValueError(f"outputs {tuple(logits.shape)} and {tuple(apart.shape)}, not (n, classes)")
    except MISFITS as error:
        raise ArchitectureError(
            f"the network cannot be run on images {shape} as stem, blocks and head ({_reason(error)})",
            where=chain.origin.path,
            hint="check the preprocessing's size, and that forward runs the blocks of its stages in turn",
        ) from error
    if not bool(logits.isfinite().all()):
        raise ArchitectureError(
            "the network's logits are not finite, on seeded noise",
            where=chain.origin.path,
            hint="its weights may be damaged, or not trained yet",
        )
    difference = (logits - apart).abs().max()
    if not bool(difference <= SELF_CHECK_TOLERANCE * logits.abs().max()):
        raise ArchitectureError(
            f"the network's logits differ from those of stem, blocks and head by {float(difference):.3g}",
            where=chain.origin.path,
            hint="check that split leaves nothing out, and that forward runs the blocks of its stages in turn",
        )
    return logits.shape[1]


def check_preprocessing(chain: ResidualChain) -> None:
    """Check that images have as many channels as the network takes.

    Raises:
        ArchitectureError: where they have not.
    """
    takes = chain.architecture.options["in_channels"]
    if chain.preprocessing.channels != takes:
        raise ArchitectureError(
            f"the network takes {takes} channels, its preprocessing gives {chain.preprocessing.channels}",
            where=chain.origin.path,
            hint="mend the preprocessing in its config",
        )


def check_exit_state(chain: ResidualChain) -> None:
    """Check that what the exits have of their own are rows of the network's tensors.

    Raises:
        ArchitectureError: where they are not.
    """
    native = chain.network.state_dict()
    for name, rows in chain.exit_state.items():
        shape = tuple(native[name].shape) if name in native else None
        if tuple(rows.shape[1:]) != shape or not 0 < len(rows) <= chain.depth:
            fits = "the network has no such tensor" if shape is None else f"the network's is {shape}"
            raise ArchitectureError(
                f"the exits' {name} {tuple(rows.shape)} is not one row for each of at most {chain.depth} exits"
                f" ({fits})",
                where=chain.origin.path,
                hint="write the folder again with resprune",
            )
