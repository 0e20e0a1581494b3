"""A checkpoint becomes a `ResidualChain`: recognised, built, filled strictly, checked block by block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from resprune import families
from resprune.chain import ExitStatistics, ResidualChain, assemble, seeded_images
from resprune.checkpoint import Checkpoint
from resprune.errors import ArchitectureError, UsageError
from resprune.families import Family, Part
from resprune.records import Architecture, Claim, Origin, Preprocessing, Wish

SELF_CHECK_TOLERANCE = 1e-4
"""Largest deviation of a block from activation(skip + branch), relative to its largest output."""
MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch and adapters raise where a network is not what they were told."""
_SELF_CHECK_SIZE = 64


def open_chain(
    checkpoint: Checkpoint,
    preprocessing: Preprocessing | None = None,
    *,
    wish: Wish | None = None,
    family: Family | None = None,
) -> ResidualChain:
    """Turn a checkpoint into the chain of its network, checked block by block.

    Args:
        checkpoint: As `resprune.checkpoint.read` returns it; its tensors are copied. Where they are on
            the meta device, shapes are checked and numbers are not.
        preprocessing: Overrides what the checkpoint or its family says.
        wish: What the user says of the network; goes before everything else.
        family: Of the user's own, for a folder that was written with it.

    Raises:
        ArchitectureError: where the weights are of no known family, do not fit the architecture exactly,
            or a block is not activation(skip + branch).
        UsageError: where the wish is for something that there is not.
    """
    architecture, origin = identify(checkpoint, wish or Wish(), family)
    family = family or families.family_of(architecture)
    try:
        chain = assemble(
            fill(checkpoint, architecture, family),
            architecture,
            preprocessing or checkpoint.preprocessing or family.preprocessing(architecture),
            origin,
            {path: ExitStatistics(*pair) for path, pair in checkpoint.exit_statistics.items()},
            family,
        )
    except ArchitectureError as error:  # a block that is no sum: the family knows its path, not the file's
        where = origin.path if error.where in (None, origin.path) else f"{origin.path}, {error.where}"
        raise ArchitectureError(error.what, where=where, hint=error.hint) from error
    _check_preprocessing(chain)
    _check_exit_statistics(chain)
    if chain.device.type != "meta":
        check_split(chain)
    return chain


def fill(checkpoint: Checkpoint, architecture: Architecture, family: Family) -> nn.Module:
    """Build the network and load a copy of the weights strictly.

    Raises:
        ArchitectureError: where either cannot be done.
    """
    where = checkpoint.origin.path
    # A user's network may have tensors that no state dict fills.
    device = "meta" if family in families.FAMILIES else "cpu"
    try:
        network = families.build(architecture, device, family)
    except MISFITS as error:
        raise ArchitectureError(
            f"no network of the family {architecture.family} can be built ({type(error).__name__}: {error})",
            where=where,
            hint="the config or the weights may be damaged",
        ) from error
    # Copied into memory of torch's own: kernels choose their path by alignment, which a mapped file lacks,
    # and the same weights would give other last bits.
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.weights.items()
    }
    for name, counter in network.state_dict().items():
        if name.endswith("num_batches_tracked") and name not in weights:  # torch before 0.4.1 had none
            weights[name] = torch.zeros_like(counter, device="cpu")
    try:
        network.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ArchitectureError(
            f"the weights do not fit {architecture.name} ({_first_mismatch(error)})",
            where=where,
            hint="resprune inspect shows what was recognised",
        ) from error
    numberless = [name for name, buffer in network.named_buffers() if buffer.device.type == "meta"]
    if device == "meta" and numberless and not any(tensor.device.type == "meta" for tensor in weights.values()):
        # Constants that no state dict holds, such as the filters of a blur: their constructor must run.
        network = families.build(architecture, "cpu", family)
        network.load_state_dict(weights, strict=True, assign=True)
    return network.requires_grad_(False)


def identify(checkpoint: Checkpoint, wish: Wish, family: Family | None = None) -> tuple[Architecture, Origin]:
    """Return the architecture that the user, else the metadata, else names and shapes tell.

    Raises:
        ArchitectureError: where none does.
        UsageError: where the wish is for something that there is not.
    """
    architecture, where = _architecture(checkpoint, wish, family)
    if family is not None and architecture.family != family.name:
        raise UsageError(
            f"the network is of the family {architecture.family!r}, not {family.name!r}",
            where=checkpoint.origin.path,
            hint="give the adapter that it was written with",
        )
    family = family or families.family_of(architecture)
    if checkpoint.architecture is not None:
        if wish.assume:
            raise UsageError(
                "the folder says what it holds", where=checkpoint.origin.path, hint="leave --assume out"
            )
        return architecture, checkpoint.origin
    for name, value in wish.assume.items():
        known = {a.name: a for a in families.assumptions(architecture, family, checkpoint.weights)}
        if name == "arch" or name not in known or value not in (known[name].value, *known[name].others):
            choices = [a.flag("|".join((a.value, *a.others))) for a in known.values()]
            raise UsageError(
                f"nothing to assume as {name}={value} for {architecture.name}",
                where=checkpoint.origin.path,
                hint=f"choose from {', '.join(choices)}" if choices else "leave --assume out",
            )
        architecture = family.assume(architecture, name, value)
    given = {*wish.assume, *(["arch"] if where else [])}
    assumptions = tuple(
        replace(assumption, given=assumption.name in given)
        for assumption in families.assumptions(architecture, family, checkpoint.weights)
    )
    notes = (*checkpoint.origin.notes, *([f"architecture from {where}"] if where else []))
    return architecture, replace(checkpoint.origin, notes=notes, assumptions=assumptions)


def _architecture(checkpoint: Checkpoint, wish: Wish, family: Family | None) -> tuple[Architecture, str]:
    """Return the architecture and who says so; nobody where names and shapes told it."""
    origin, weights = checkpoint.origin, checkpoint.weights
    by_name, recognise = (family or families).by_name, (family or families).recognise
    if wish.arch is not None:
        library, _, name = wish.arch.rpartition("/")
        found = by_name(Claim(name, library), weights)
        if found is None:
            raise UsageError(
                f"these weights cannot be those of {wish.arch!r}",
                where=origin.path,
                hint=f"leave --arch out, or choose from {', '.join(families.candidates(weights)) or 'none'}",
            )
        return found, "--arch"
    if checkpoint.architecture is not None:
        return checkpoint.architecture, ""
    claim = checkpoint.claim
    found = None if claim is None else by_name(claim, weights)
    if claim is not None and found is not None:
        return found, claim.where
    found = recognise(weights)
    if found is None:
        reason = families.refusal(weights)
        sample = ", ".join(list(weights)[:3])
        raise ArchitectureError(
            reason or f"no residual network that resprune knows: {len(weights)} tensors, first {sample}",
            where=origin.path,
            hint="resprune families lists what is read"
            + ("" if reason else "; from Python, resprune.wrap takes any nn.Module"),
        )
    return found, ""


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
    difference = (logits - apart).abs().max()
    if not bool(difference <= SELF_CHECK_TOLERANCE * logits.abs().max()):
        raise ArchitectureError(
            f"the network's logits differ from those of stem, blocks and head by {float(difference):.3g}",
            where=chain.origin.path,
            hint="check that split leaves nothing out, and that forward runs the blocks of its stages in turn",
        )
    return logits.shape[1]


def _check_preprocessing(chain: ResidualChain) -> None:
    takes = chain.architecture.options["in_channels"]
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
