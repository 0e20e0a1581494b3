"""A chain becomes a file or folder that another program loads; nothing appears that was not read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from resprune.chain import ResidualChain
from resprune.checks import check_chain, check_mode
from resprune.errors import UsageError
from resprune.exporting import folder as output
from resprune.exporting import graphs, stock, targets
from resprune.exporting.restoring import restore
from resprune.exporting.single import SCHEMA, file_or_nothing, refuse_existing_file
from resprune.exporting.verifying import Written, read_back
from resprune.records import ExportOutcome, Verification
from resprune.report.exporting import card


def export(
    chain: ResidualChain,
    path: str | Path,
    format: str,  # noqa: A002 - the command line's word
    *,
    zeroed: bool = False,
    fold_bn: bool = False,
    class_names: Sequence[str] = (),
    force: bool = False,
    seed: int = 0,
) -> ExportOutcome:
    """Write a network for use without resprune, and read it back in a new process.

    Args:
        chain: Left as it is.
        path: A folder, or a file with the format's suffix; whole or not at all.
        format: One of `resprune.exporting.targets.FORMATS`.
        zeroed: Write the compatible form: missing blocks are whole again, their branches zero.
        fold_bn: Fold batch norms into the convolutions before them; for ``onnx`` and ``torch-export``.
        class_names: One for each logit, for the metadata.
        force: Replace what resprune wrote there before.
        seed: Of the images that it is compared on, and of initial weights behind zeroed norms.

    Raises:
        UsageError: where the format cannot hold the network, or what the format needs is not installed.
        OutputError: where nothing can be written there.
        VerificationError: where what was read back differs; nothing is left then.
    """
    check_chain(chain)
    check_mode(chain.network, chain.origin.path)
    target = targets.find(format)
    path, names = Path(path), tuple(class_names)
    check_place(path, format, force, fold_bn)
    if names and len(names) != chain.classes:
        what = f"{len(names)} class names for {chain.classes} logits"
        raise UsageError(what, where=chain.origin.path, hint="give one name for each logit")
    result = restore(chain, seed) if zeroed else chain
    targets.check(format, result)
    wanted = output.whole_or_nothing if not target.suffix else file_or_nothing
    with wanted(path, force) as draft:
        traced = _write(result, draft, format, fold_bn, names)
        folded, merged = (0, 0) if traced is None else (traced.folded, traced.merged)
        relative = max(target.relative, targets.ROUNDING if folded or merged else 0.0)
        found = read_back([Written(format, draft, chain, relative)], seed)[0]
        outcome = ExportOutcome(
            origin=chain.summary,
            result=result.summary,
            format=format,
            library=target.library,
            constructor=output.constructor_of(result) if format == "torchvision" else "",
            folded=folded,
            merged=merged,
            preprocessing=chain.preprocessing,
            class_names=names,
            verified=Verification(found.max_abs_difference, found.against, found.tolerance),
            samples=found.samples,
            folder=str(path.parent if target.suffix else path),
            files=(path.name,),
        )
        if not target.suffix:
            (draft / output.CARD_FILE).write_text(card(outcome), encoding="utf-8")
            outcome = replace(outcome, files=tuple(sorted(entry.name for entry in draft.iterdir())))
    return outcome


def check_place(path: Path, format: str, force: bool, fold_bn: bool) -> None:  # noqa: A002
    """Check, before anything is read, that an export may be written.

    Raises:
        UsageError: where the format's files have another suffix, or norms cannot be folded in it.
        OutputError: where something is there already.
    """
    target = targets.FORMATS[format]
    if fold_bn and not target.foldable:
        able = " and ".join(name for name, other in targets.FORMATS.items() if other.foldable)
        what = f"{target.library}'s classes have their batch norms, so that none can be folded"
        raise UsageError(what, hint=f"leave --fold-bn out; {able} take it")
    if target.suffix and path.suffix != target.suffix:
        what = f"the format {format} is one file that ends in {target.suffix}"
        raise UsageError(what, where=path, hint=f"--out {path.name or 'model'}{target.suffix}")
    (refuse_existing_file if target.suffix else output.refuse_existing)(path, force)


def _write(
    chain: ResidualChain,
    draft: Path,
    format: str,  # noqa: A002
    fold_bn: bool,
    names: tuple[str, ...],
) -> graphs.Traced | None:
    """Write a network in one of the formats; returns the graph where it is one."""
    if format in ("onnx", "torch-export"):
        traced = graphs.trace(chain, fold_bn)
        if format == "onnx":
            import onnx

            onnx.save(graphs.to_onnx(traced.program, _about(chain, names), optimise=fold_bn), draft)
        else:
            graphs.write_torch_export(traced.program, draft, _about(chain, names))
        return traced
    if format == "torchvision":
        stock.write_torchvision(chain, draft, output.constructor_of(chain), _about(chain, names))
    elif format == "hf":
        stock.write_hugging_face(chain, draft, _provenance(chain), names)
    else:
        output.write_network(chain, draft, _provenance(chain), names)
    return None


def _provenance(chain: ResidualChain) -> dict[str, Any]:
    """Return what a config says of where the network is from."""
    origin = chain.origin
    return {
        "version": version("resprune"),
        "torch": version("torch"),
        "origin": {"name": PurePath(origin.path).name, "sha256": origin.sha256},
    }


def _about(chain: ResidualChain, names: tuple[str, ...]) -> dict[str, str]:
    """Return what a file's metadata say: texts by name, JSON where there is more than a word."""
    about = {
        "resprune": SCHEMA,
        "architecture": chain.architecture.name,
        "layout": json.dumps(list(chain.architecture.stages)),
        "preprocessing": json.dumps(chain.preprocessing.to_json()),
        "provenance": json.dumps(_provenance(chain)),
    }
    return about | ({"class_names": json.dumps(names)} if names else {})
