"""What the stock classes of timm, torchvision and transformers load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from resprune.chain import ResidualChain
from resprune.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from resprune.configs import PROCESSOR_FILE, pillow_filter
from resprune.exporting.folder import save_tensors, write_json, write_network
from resprune.records import Preprocessing
from resprune.renaming import to_hugging_face


def write_hugging_face(
    chain: ResidualChain, folder: Path, provenance: dict[str, Any], names: tuple[str, ...]
) -> None:
    """Write the folder that ``AutoModelForImageClassification.from_pretrained`` loads.

    Its own ResNet where it can hold the network. Otherwise timm's folder: transformers wraps timm's networks.
    """
    own = chain.family.hugging_face_config(chain.architecture)
    if own is None:
        write_network(chain, folder, provenance, names)
        return
    labels = names or tuple(f"LABEL_{index}" for index in range(chain.classes))
    own["id2label"] = {str(index): label for index, label in enumerate(labels)}
    own["label2id"] = {label: index for index, label in enumerate(labels)}
    own["resprune"] = {
        "architecture": chain.architecture.to_json(),
        "preprocessing": chain.preprocessing.to_json(),
        **provenance,
    }
    tensors = {to_hugging_face(name): tensor for name, tensor in _tensors(chain).items()}
    save_tensors(tensors, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, own)
    write_json(folder / PROCESSOR_FILE, _processor(chain.preprocessing))


def write_torchvision(chain: ResidualChain, path: Path, constructor: str, about: Mapping[str, str]) -> None:
    """Write a state dict of torchvision's names as safetensors: it has metadata, and is no pickle."""
    save_tensors(_tensors(chain), path, {"constructor": constructor, **about})


def _tensors(chain: ResidualChain) -> dict[str, Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in chain.network.state_dict().items()}


def _processor(recipe: Preprocessing) -> dict[str, Any]:
    """Return the config of the transformers processor that does what the recipe says."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": recipe.channels == 3,
        "do_resize": recipe.resize is not None,
        "size": {"shortest_edge": recipe.resize or min(recipe.height, recipe.width)},
        "resample": pillow_filter(recipe.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": recipe.height, "width": recipe.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }
