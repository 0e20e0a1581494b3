"""A module of the user's own becomes a `ResidualChain`, through a family of the user's own; all is checked."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import nn

from resprune import families
from resprune.chain import ResidualChain, assemble, digest, seeded_images
from resprune.checkpoint import Checkpoint
from resprune.checks import MISFITS, SELF_CHECK_TOLERANCE, check_mode, check_network, check_split, full_float32
from resprune.errors import ArchitectureError, UsageError
from resprune.exits import SkipChainExits
from resprune.families import Family, Part, Parts
from resprune.opening import fill
from resprune.records import BARE, WHOLE, Architecture, Origin, Preprocessing


def wrap(
    network: nn.Module,
    family: Family,
    *,
    preprocessing: Preprocessing | None = None,
    classes: int | None = None,
    name: str | None = None,
) -> ResidualChain:
    """View any module as a chain; nothing is copied, and neither this nor what takes the chain changes it.

    The chain runs the module as it is: whoever trains the module afterwards does so to the chain, which is
    refused as long as any part of it is in training mode. `resprune.prune` works on a copy.

    Args:
        network: In eval mode, with float32 parameters, on any device.
        family: Splits it. `name` and `split` are enough; with `build`, saved folders can be read back by
            ``resprune.load(folder, family=family)``.
        preprocessing: Of the images; sizes and costs are counted for images of its size. None asks the family.
        classes: Number of logits; None counts them.
        name: Of the network in reports; None takes its class's.

    Raises:
        UsageError: where the module is in training mode, not float32, or has another number of logits.
        ArchitectureError: where the module is not what the family's split says.
    """
    where = f"{type(network).__module__}.{type(network).__qualname__}"
    _check_family(family, where)
    _check_module(network, where)
    title = name or type(network).__name__
    known = family.recognise(network.state_dict()) or Architecture(family.name, title, ())
    parts = _split(network, family, known, where)
    _check_places(network, parts, where)
    recipe = preprocessing or family.preprocessing(known)
    options = {"classes": classes or 0, "in_channels": recipe.channels, **known.options}
    architecture = replace(known, name=name or known.name, stages=_stages(parts), options=options)
    chain = assemble(
        network, architecture, recipe, Origin(where, digest(network.state_dict()), "nn.Module"), family=family
    )
    logits = check_network(chain)
    check_split(chain)
    if classes is not None and logits != classes:
        raise UsageError(f"the network gives {logits} logits, not {classes}", where=where)
    architecture = replace(architecture, options={**options, "classes": logits})
    if type(family).build is not Family.build:
        architecture = _settle(chain, architecture)
    chain = assemble(network, architecture, recipe, chain.origin, family=family)
    _check_skip_chain(chain)
    _check_cost(chain)
    return chain


def _check_family(family: Family, where: str) -> None:
    ours = {known.name: type(known) for known in families.FAMILIES}
    name = getattr(family, "name", "")
    if not name or not issubclass(type(family), ours.get(name, Family)):
        raise UsageError(
            f"the family has no name, or one of resprune's own: {name!r}",
            where=where,
            hint="give the adapter another name",
        )


def _check_module(network: nn.Module, where: str) -> None:
    check_mode(network, where)
    kinds = sorted({str(parameter.dtype) for parameter in network.parameters()})
    if kinds != ["torch.float32"]:
        raise UsageError(
            f"the parameters are {', '.join(kinds) or 'none'}, expected torch.float32",
            where=where,
            hint="call network.float() first",
        )


def _split(network: nn.Module, family: Family, architecture: Architecture, where: str) -> Parts:
    try:
        parts = family.split(network, architecture)
    except MISFITS as error:
        raise ArchitectureError(
            f"split of the family {family.name!r} failed ({type(error).__name__}: {error})",
            where=where,
            hint="mend the adapter, or wrap a network of its kind",
        ) from error
    if not any(part.branch is not None for part in parts.blocks):
        raise ArchitectureError("split found no block with a branch", where=where)
    return parts


def _check_places(network: nn.Module, parts: Parts, where: str) -> None:
    """Check that blocks stand where surgery can take them out: they alone are a sequence's children."""
    containers: dict[str, list[Part]] = {}
    for part in parts.blocks:
        containers.setdefault(part.path.rpartition(".")[0], []).append(part)
    for path, mine in containers.items():
        try:
            container = network.get_submodule(path)
        except AttributeError:
            container = None
        names = [part.path.rpartition(".")[2] for part in mine]
        expected = list(zip(names, (part.module for part in mine), strict=True))
        if (
            not isinstance(container, nn.Sequential | nn.ModuleList)
            or [*container.named_children()] != expected
        ):
            raise ArchitectureError(
                f"the blocks {', '.join(names)} are not all the children, in turn, of an nn.Sequential or "
                f"nn.ModuleList at {path!r}",
                where=where,
                hint="only from such a sequence can blocks be removed: let split name the children of one",
            )


def _stages(parts: Parts) -> tuple[str, ...]:
    """Return the letters of a split's blocks; see `Architecture.stages`."""
    order = [part.stage for part in parts.blocks]
    if order != sorted(order) or order[0] < 0:
        raise ArchitectureError(f"split numbers its stages {order}, expected 0, 1, ... in ascending order")
    stages = [""] * (order[-1] + 1)
    for part in parts.blocks:
        stages[part.stage] += BARE if part.branch is None else WHOLE
    return tuple(stages)


@full_float32()
@torch.inference_mode()
def _settle(chain: ResidualChain, architecture: Architecture) -> Architecture:
    """Return the architecture with the values of its assumptions for which `build` gives the same network."""
    family, images = chain.family, seeded_images(chain.preprocessing, 1, seed=0).to(chain.device)
    logits = chain.network(images)
    checkpoint = Checkpoint(dict(chain.network.state_dict()), chain.origin)
    open_choices = family.assumptions(architecture)
    for values in product(*((choice.value, *choice.others) for choice in open_choices)):
        candidate = architecture
        for choice, value in zip(open_choices, values, strict=True):
            candidate = family.assume(candidate, choice.name, value)
        difference = (fill(checkpoint, candidate, family).to(chain.device)(images) - logits).abs().max()
        if bool(difference <= SELF_CHECK_TOLERANCE * logits.abs().max()):
            return candidate
    raise ArchitectureError(
        "build gives a network that computes something else from the same weights",
        where=chain.origin.path,
        hint="mend build or leave it out; for a family of resprune's own, save the weights and load the file",
    )


@full_float32()
@torch.inference_mode()
def _check_skip_chain(chain: ResidualChain) -> None:
    """Check exit 0, which passes every skip step, against the steps taken one by one."""
    images = seeded_images(chain.preprocessing, 1, seed=0).to(chain.device)
    x = chain.stem(images)
    for block in chain.blocks:
        x = block.skip(x)
    for step in chain.tail:
        x = step(x)
    alone = chain.head(x)
    difference = (SkipChainExits(chain)(images)[:, 0] - alone).abs().max()
    if not bool(difference <= SELF_CHECK_TOLERANCE * alone.abs().max()):
        raise ArchitectureError(
            "its skip steps or its head, run layer by layer, give something else",
            where=chain.origin.path,
            hint="a layer in skip or head of a class derived from one of torch's must do what that one does",
        )


def _check_cost(chain: ResidualChain) -> None:
    try:
        _ = chain.summary
    except (RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArchitectureError(
            f"its multiply-accumulates cannot be counted on torch's meta device ({reason})",
            where=chain.origin.path,
            hint="keep tensors as parameters or buffers, and let forward ask for no tensor's values",
        ) from error
