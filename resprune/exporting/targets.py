"""The formats, which network fits which, and where one that does not can go instead."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.errors import UsageError
from resprune.exporting.restoring import whole_architecture
from resprune.records import Architecture, NetworkSummary


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Attributes:
        library: What reads it.
        suffix: Of the file; empty where it is a folder.
        relative: Largest difference of the logits that passes, relative to the largest logit; 0 where the
            reader runs the same operations on the same weights, so that not a bit may differ.
        extra: Of resprune's installation, where the format needs one.
        modules: What that installs.
        foldable: Whether batch norms can be folded: a class of a library has its norms.
    """

    library: str
    suffix: str = ""
    relative: float = 0.0
    extra: str = ""
    modules: tuple[str, ...] = ()
    foldable: bool = False


ROUNDING = 1e-5
"""Relative to the largest logit: other kernels and folded norms add the same numbers in another order."""

FORMATS: dict[str, Format] = {
    "timm": Format("timm"),
    "torchvision": Format("torchvision", ".safetensors"),
    "hf": Format("transformers", extra="hf", modules=("transformers",)),
    "onnx": Format(
        "ONNX Runtime", ".onnx", ROUNDING, "onnx", ("onnx", "onnxscript", "onnxruntime"), foldable=True
    ),
    "torch-export": Format("torch.export", ".pt2", foldable=True),
    "safetensors": Format("resprune"),
}
_NEAREST = ("timm", "hf", "torchvision", "onnx")
"""Where a network goes that a format cannot hold: the first that can."""


def find(name: str) -> Format:
    """Return a format by its name, with all that it needs installed.

    Raises:
        UsageError: where there is no such format, or what it needs is missing.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}", hint=f"choose from {', '.join(FORMATS)}")
    found = FORMATS[name]
    missing = []
    for module in found.modules:
        try:
            import_module(module)
        except ImportError:
            missing.append(module)
    if missing:
        raise UsageError(
            f"the format {name} needs {' and '.join(missing)}, not installed here",
            hint=f"pip install 'resprune[{found.extra}]'",
        )
    return found


def holds(name: str, chain: ResidualChain, architecture: Architecture) -> bool:
    """Whether a format can hold an architecture of the chain's family."""
    family = chain.family
    if name == "timm":
        return family.timm_config(architecture) is not None
    if name == "torchvision":
        return family.torchvision_constructor(architecture) is not None
    if name == "hf":
        return any(
            config is not None
            for config in (family.hugging_face_config(architecture), family.timm_config(architecture))
        )
    return True


def check(name: str, chain: ResidualChain) -> None:
    """Refuse a network that a format cannot hold as it stands.

    Raises:
        UsageError: with the reason, the nearest format that can, and what the compatible form costs.
    """
    architecture = chain.architecture
    if holds(name, chain, architecture):
        return
    library = FORMATS[name].library
    what = f"{library} has no class that computes {architecture.name}"
    nearest = next(other for other in _NEAREST if holds(other, chain, architecture))
    hint = f"--format {nearest} can hold it"
    whole = whole_architecture(architecture)
    if whole != architecture:
        layout = ", ".join(letters or "none" for letters in architecture.stages)
        what = f"{library} has no class for stages that are not all whole blocks (they are {layout})"
    if whole != architecture and holds(name, chain, whole):
        hint += f"; or add --zeroed, {cost(chain.summary, outline(chain, whole))}"
    raise UsageError(what, where=chain.origin.path, hint=hint)


def outline(chain: ResidualChain, architecture: Architecture) -> NetworkSummary:
    """Return the size of a network of the chain's family that need not be there."""
    network = families.build(architecture, family=chain.family).requires_grad_(False)
    return assemble(network, architecture, chain.preprocessing, chain.origin, family=chain.family).summary


def cost(before: NetworkSummary, after: NetworkSummary) -> str:
    """Say in words what blocks that are whole again cost."""
    blocks = after.blocks - before.blocks
    parameters, macs = after.parameters - before.parameters, after.macs - before.macs
    return (
        f"which makes {blocks} block{'s' if blocks > 1 else ''} whole again with zeroed branches:"
        f" the same outputs for {parameters:,} parameters ({parameters / before.parameters:+.1%})"
        f" and {macs:,} MACs ({macs / before.macs:+.1%}) more"
    )
