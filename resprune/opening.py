"""A checkpoint becomes a `ResidualChain`: recognised, built, filled strictly, checked block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.checkpoint import Checkpoint
from resprune.checks import MISFITS, check_exit_state, check_preprocessing, check_split
from resprune.errors import ArchitectureError, UsageError, printable
from resprune.families import Family
from resprune.records import Architecture, Claim, Origin, Preprocessing, Wish


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
            checkpoint.exit_state,
            family,
        )
    except ArchitectureError as error:  # a block that is no sum: the family knows its path, not the file's
        where = origin.path if error.where in (None, origin.path) else f"{origin.path}, {error.where}"
        raise ArchitectureError(error.what, where=where, hint=error.hint) from error
    check_preprocessing(chain)
    check_exit_state(chain)
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
    if device == "meta" and _is_outline(checkpoint.weights, network):
        return network.requires_grad_(False)
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
            hint="the file may be damaged or edited; --arch NAME, if it is another network",
        ) from error
    numberless = [name for name, buffer in network.named_buffers() if buffer.device.type == "meta"]
    if device == "meta" and numberless and not any(tensor.device.type == "meta" for tensor in weights.values()):
        # Constants that no state dict holds, such as the filters of a blur: their constructor must run.
        network = families.build(architecture, "cpu", family)
        network.load_state_dict(weights, strict=True, assign=True)
    return network.requires_grad_(False)


def _is_outline(weights: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Whether weights are a network's names and shapes and nothing else, so that there is nothing to load."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    numbers = any(tensor.device.type != "meta" for tensor in weights.values())
    return not numbers and shapes == {name: tensor.shape for name, tensor in weights.items()}


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
    told = (
        checkpoint.claim.arguments if checkpoint.claim is not None and where == checkpoint.claim.where else ()
    )
    given = {*wish.assume, *told, *(["arch"] if where else [])}
    assumptions = tuple(
        replace(assumption, given=assumption.name in given)
        for assumption in families.assumptions(architecture, family, checkpoint.weights)
    )
    notes = [*checkpoint.origin.notes]
    if where:
        notes.append(f"architecture from {where}")
    elif checkpoint.claim is not None and checkpoint.claim.name:
        notes.append(
            f"{checkpoint.claim.where} names {printable(checkpoint.claim.name)}, which the weights do not fit"
        )
    return architecture, replace(checkpoint.origin, notes=tuple(notes), assumptions=assumptions)


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


def _first_mismatch(error: RuntimeError) -> str:
    lines = str(error).splitlines()
    return " ".join((lines[1] if len(lines) > 1 else lines[0]).split())[:200].rstrip(". ")
