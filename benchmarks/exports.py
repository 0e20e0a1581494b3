"""Which network goes where, measured: every export is written, read back in a new process and compared.

``python benchmarks/exports.py`` prints the table of docs/exporting.md. Networks have seeded random weights,
with batch-norm statistics that are far from the identity; `demo` is the one that the package ships.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

import resprune
from resprune.chain import ResidualChain
from resprune.errors import UsageError
from resprune.exporting.targets import FORMATS

NETWORKS = (
    *(
        "torchvision/resnet18",
        "torchvision/resnet50",
        "torchvision/resnext50_32x4d",
        "torchvision/regnet_y_400mf",
    ),
    *("timm/resnet50", "timm/resnet26d", "timm/seresnet50", "timm/resnetv2_50", "timm/regnety_002"),
    *("timm/res2net50_14w_8s", "demo", "demo, 7 blocks"),
)
RUNS = (*((name, False) for name in FORMATS), ("onnx", True), ("torch-export", True))


def network(name: str, folder: Path) -> ResidualChain:
    """Return one of the networks, read from a file as a user's would be."""
    library, _, model = name.partition("/")
    if not model:
        chain = resprune.load("demo", device="cpu")
        if name == "demo":
            return chain
        return resprune.prune(chain, resprune.select(depth=7, blocks=chain.depth)).chain
    torch.manual_seed(0)
    built: nn.Module = (
        torchvision.models.get_model(model) if library == "torchvision" else timm.create_model(model)
    )
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(layer.weight, 0.5, 1.0)
    file = folder / f"{model}.pth"
    torch.save(built.state_dict(), file)
    return resprune.load(file, device="cpu", arch=name if library == "timm" else None)


def cell(chain: ResidualChain, name: str, fold: bool, folder: Path) -> str:
    """Return the largest difference of an export, relative to the largest logit that its tolerance is of."""
    out = folder / f"export{FORMATS[name].suffix}"
    try:
        done = resprune.export(chain, out, name, fold_bn=fold, force=True)
    except UsageError:
        return "-"
    worst, bound = done.verified.max_abs_difference, done.verified.tolerance
    return "equal" if worst == 0 else f"{1e-5 * worst / bound:.1e}"


def main() -> None:
    """Print the table, a row for each network."""
    torch.set_num_threads(1)
    print("| network | " + " | ".join(f"{name}{' --fold-bn' if fold else ''}" for name, fold in RUNS) + " |")
    print("|---|" + "---|" * len(RUNS))
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            chain = network(name, Path(folder))
            row = []
            for form, fold in RUNS:
                with tempfile.TemporaryDirectory() as out:
                    row.append(cell(chain, form, fold, Path(out)))
            print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
