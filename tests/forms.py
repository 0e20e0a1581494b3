"""The forms in which training programs and libraries save one small network."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stored import Weights, prefixed, weights
from torch import Tensor


def other() -> Weights:
    """Return weights of the same shapes and other numbers, as an average has them."""
    return {name: tensor + 1 for name, tensor in weights().items()}


def below(prefix: str, state: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged_model() -> Weights:
    """Return the state dict of torch's `AveragedModel`."""
    return {"n_averaged": torch.tensor(3), **prefixed("module.")}


def inserted(part: str) -> Weights:
    """Return weights in which only the blocks were wrapped, as FSDP and checkpointing do."""
    return {name.replace(".conv1.", f".{part}conv1."): tensor for name, tensor in weights().items()}


def profiled() -> Weights:
    extras = {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)}
    return weights() | extras


def torchvision_training() -> dict[str, Any]:
    args = Namespace(model="resnet18", epochs=90)
    return {"model": weights(), "optimizer": {}, "lr_scheduler": {}, "epoch": 3, "args": args}


def timm_training() -> dict[str, Any]:
    args = Namespace(model="resnet26d", gp=None, model_kwargs={"stem_width": 8})
    return {
        "epoch": 3,
        "arch": "resnet26d",
        "state_dict": weights(),
        "state_dict_ema": other(),
        "args": args,
        "version": 2,
    }


def to_hugging_face(state: Weights) -> Weights:
    """Return a torchvision ResNet's weights under Hugging Face's names."""
    return {_hugging_face(name): tensor for name, tensor in state.items()}


def _hugging_face(name: str) -> str:
    parts = name.split(".")
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if not parts[0].startswith("layer"):
        return f"resnet.embedder.embedder.{kinds[parts[0][:-1]]}.{parts[1]}"
    block = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{block}.shortcut.{kinds[parts[3]]}.{parts[4]}"
    return f"{block}.layer.{int(parts[2][-1]) - 1}.{kinds[parts[2][:-1]]}.{parts[3]}"


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(content))


def write_shards(folder: Path, state: dict[str, Tensor]) -> Path:
    """Write weights as two files and their index, and return the index."""
    folder.mkdir()
    names = list(state)
    half = len(names) // 2
    files = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half:],
    }
    for file, mine in files.items():
        save_file({name: state[name] for name in mine}, folder / file)
    weight_map = {name: file for file, mine in files.items() for name in mine}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder / "model.safetensors.index.json"


def assert_same(got: Mapping[str, torch.Tensor], expected: Weights) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
