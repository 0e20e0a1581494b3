"""A file, a folder or a name of any kind becomes a chain on its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resprune import checkpoint
from resprune.chain import ResidualChain
from resprune.data import survey
from resprune.devices import usable
from resprune.errors import UsageError
from resprune.families import Family
from resprune.fresh import fresh, is_name
from resprune.opening import open_chain
from resprune.records import READ_SAFELY, Preprocessing, Reading, Wish


def load(
    source: str | Path,
    *,
    device: str = "auto",
    preprocessing: Preprocessing | None = None,
    family: Family | None = None,
    arch: str | None = None,
    assume: Mapping[str, str] | None = None,
    reading: Reading = READ_SAFELY,
    data: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
    **recipe: Any,
) -> ResidualChain:
    """Read a checkpoint file, a folder, a registered name, or ``demo``, and view it as a chain.

    Args:
        source: See `resprune.checkpoint.read`, also for what is raised; or one of the paper's networks from
            scratch, ``paper-homogeneous-54`` or ``paper-standard-54``, for ``data``.
        device: ``cpu``, ``cuda``, ...; ``auto`` takes CUDA where there is one.
        preprocessing: Overrides what the checkpoint or its family says.
        family: Of your own, for what is none of resprune's: a folder written from a wrapped module.
        arch: Name of the architecture, such as ``resnetaa50``, where names and shapes fit several.
        assume: Values of assumptions by name, such as ``{"stride": "1x1"}``; `inspect` lists them.
        reading: Which weights of several, and how far the file is trusted.
        data: Training images that a network from scratch is made for.
        split: Of them; by default ``train``.
        seed: Of the weights of a network from scratch.
        recipe: Parts of the preprocessing, over what is known: see `Preprocessing.changed`.
    """
    if is_name(str(source)) and not Path(source).exists():
        chain = _from_scratch(str(source), data, split, seed)
    else:
        wish = Wish(arch, assume or {})
        chain = open_chain(checkpoint.read(source, reading), preprocessing, wish=wish, family=family)
    try:
        chain = replace(chain, preprocessing=chain.preprocessing.changed(**recipe))
    except ValueError as error:
        halves = ",".join(["0.5"] * chain.preprocessing.channels)
        raise UsageError(f"no preprocessing: {error}", hint=f"--mean {halves} --std {halves}") from error
    if chain.device.type == "meta":
        return chain
    usable(device, chain.network.to)
    return chain


def _from_scratch(name: str, data: str | Path | None, split: str | None, seed: int) -> ResidualChain:
    if data is None:
        raise UsageError(
            "a network from scratch is made for its training images",
            where=name,
            hint="resprune finetune takes it with --data; in Python, load(name, data=...)",
        )
    return fresh(name, survey(data, split=split, seed=seed), seed=seed)
