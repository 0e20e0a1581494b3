"""The output folder: written whole or not at all, read back by `resprune.load`, by plain timm where it can."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.checkpoint import CONFIG_FILE, EXITS_FILE, WEIGHTS_FILE
from resprune.configs import PROCESSOR_FILE
from resprune.formats import sha256
from resprune.placing import placed, refuse

REPORT_FILE = "report.json"
CARD_FILE = "README.md"
STATE_FILE = "last.pt"
METRICS_FILE = "metrics.jsonl"
TRACKS_FOLDER = "tracks"
_WEIGHTED = (nn.Conv2d, nn.Linear)
_FILES = {
    WEIGHTS_FILE,
    EXITS_FILE,
    CONFIG_FILE,
    PROCESSOR_FILE,
    REPORT_FILE,
    CARD_FILE,
    STATE_FILE,
    METRICS_FILE,
    TRACKS_FOLDER,
}


def refuse_existing(folder: Path, force: bool) -> None:
    """Check, before anything is computed, that a folder may be written.

    Raises:
        OutputError: where it exists, is not empty and ``force`` is off, or it is no folder that resprune wrote,
            or nothing can be written there.
    """
    refuse(folder, force, _is_ours, "folder")


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or holds what resprune writes and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    # A run that was killed may have left a draft.
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".draft")}
    if not names or {STATE_FILE} <= names <= _FILES:  # a run of `finetune`, finished or not
        return True
    if CONFIG_FILE not in names or not names <= _FILES:
        return False
    try:
        return "resprune" in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return False


@contextmanager
def whole_or_nothing(folder: Path, force: bool) -> Iterator[Path]:
    """Yield a hidden folder that becomes the target when the block ends without an error; see `placed`.

    Raises:
        OutputError: where the target exists, or nothing can be written there.
    """
    refuse_existing(folder, force)
    with placed(folder, CONFIG_FILE) as draft:
        yield draft


def write_network(
    chain: ResidualChain,
    folder: Path,
    provenance: dict[str, Any] | None = None,
    class_names: tuple[str, ...] = (),
) -> None:
    """Write weights, what the exits have of their own, and config into an existing folder.

    Args:
        chain: Its native names become the tensors' names.
        folder: Where to write.
        provenance: Further keys of the config's ``resprune`` section.
        class_names: One for each logit, where they are known; timm and transformers read them.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in chain.network.state_dict().items()}
    constructor = constructor_of(chain)
    # What torchvision's readers need besides the tensors; see `resprune.exporting.stock`.
    save_tensors(tensors, folder / WEIGHTS_FILE, {"constructor": constructor} if constructor else None)
    exits = {name: rows.detach().contiguous().cpu() for name, rows in chain.exit_state.items()}
    if exits:
        save_tensors(exits, folder / EXITS_FILE)
    names = {"label_names": list(class_names)} if class_names else {}
    write_json(folder / CONFIG_FILE, _config(chain, provenance or {}) | names)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions that any other file would have.

    Raises:
        OSError: where the disk is full, for example.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    # safetensors writes for the owner alone; a model folder is to be shared like any other.
    path.chmod(mode)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one JSON object for people and programs."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write a folder's report, with the SHA-256 of the files that make its network under ``files``."""
    write_json(folder / REPORT_FILE, report | {"files": hashes(folder)})


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that make a folder's network, by name."""
    made_of = (WEIGHTS_FILE, EXITS_FILE, CONFIG_FILE)
    return {name: sha256(folder / name) for name in made_of if (folder / name).is_file()}


def loads_in_timm(chain: ResidualChain) -> bool:
    """Whether plain timm can load the folder, ``timm.create_model("local-dir:...", pretrained=True)``."""
    return chain.family.timm_config(chain.architecture) is not None


def constructor_of(chain: ResidualChain) -> str:
    """Return the expression that builds the network with torchvision alone; empty where there is none."""
    return chain.family.torchvision_constructor(chain.architecture) or ""


def crop_pct(side: int, resize: int) -> float:
    """Return the fraction by which timm scales images to ``floor(side / fraction)``, which is ``resize``.

    Args:
        side: Shorter side of the network's input, pixels.
        resize: Shorter side of the scaled image.
    """
    fraction = side / resize
    # Rounding takes a pixel from some pairs, (160, 212) among them: half a pixel more gives it back.
    return fraction if math.floor(side / fraction) == resize else side / (resize + 0.5)


def _config(chain: ResidualChain, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the config: timm's keys where timm has such a network, and our own section always."""
    recipe, architecture = chain.preprocessing, chain.architecture
    timm = chain.family.timm_config(architecture)
    config: dict[str, Any] = {"architecture": architecture.name, "num_classes": chain.classes}
    if timm is not None:
        # What timm makes anew for other channels or classes.
        weighted = (name for name, layer in chain.network.named_modules() if isinstance(layer, _WEIGHTED))
        first, *_, last = weighted
        size, side = [recipe.channels, recipe.height, recipe.width], min(recipe.height, recipe.width)
        config |= timm
        config["pretrained_cfg"] = {
            "input_size": size,
            "fixed_input_size": False,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
            "interpolation": recipe.interpolation,
            "crop_pct": 1.0 if recipe.resize is None else crop_pct(side, recipe.resize),
            "crop_mode": "center",
            # Some versions of timm adapt the weights of a first convolution that does not take three channels.
            "first_conv": first if recipe.channels == 3 else None,
            "classifier": last,
            "num_classes": chain.classes,
            "custom_load": False,
        }
    config["resprune"] = {
        "architecture": architecture.to_json(),
        "preprocessing": recipe.to_json(),
        **provenance,
    }
    return config
