"""The forward passes of the original networks, written out over their state dicts by the names they have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


class State:
    """A state dict that remembers which of its tensors were used."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.used = weights, set[str]()

    def __contains__(self, key: str) -> bool:
        return key in self.weights

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return self.weights[key]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, self[f"{name}.weight"], self[f"{name}.bias"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self[f"{name}.weight"], self[f"{name}.bias"])


def torchvision_v1(state: State, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(state.norm("bn1", state.conv("conv1", x, 2))), 3, 2, 1)
    for stage in range(1, 5):
        position = 0
        while f"layer{stage}.{position}.conv1.weight" in state:
            block, stride = f"layer{stage}.{position}", 2 if stage > 1 and position == 0 else 1
            out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out)))
            out = state.norm(f"{block}.bn3", state.conv(f"{block}.conv3", out))
            if position == 0:
                x = state.norm(f"{block}.downsample.1", state.conv(f"{block}.downsample.0", x, stride))
            x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def option_a(before: Callable[[int], int]) -> Callable[[State, Tensor], Tensor]:
    def forward(state: State, x: Tensor) -> Tensor:
        x = F.relu(state.norm("bn1", state.conv("conv1", x)))
        for stage in range(1, 4):
            position = 0
            while f"layer{stage}.{position}.conv1.weight" in state:
                block, stride = f"layer{stage}.{position}", 2 if stage > 1 and position == 0 else 1
                out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
                out = state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out))
                if stride == 2:
                    extra = out.shape[1] - x.shape[1]
                    zeros = torch.zeros(len(x), extra, *out.shape[2:])
                    first = before(extra)
                    x = torch.cat([zeros[:, :first], x[:, :, ::2, ::2], zeros[:, first:]], 1)
                x, position = F.relu(out + x), position + 1
        return state.linear("linear", x)

    return forward


def numbered(shortcut: str, head: str, convolutions: int) -> Callable[[State, Tensor], Tensor]:
    """Return kuangliu's forward pass, and with other names chenyaofo's."""

    def forward(state: State, x: Tensor) -> Tensor:
        x = F.relu(state.norm("bn1", state.conv("conv1", x)))
        stages = [key.split(".")[0] for key in state.weights if key.endswith(".0.conv1.weight")]
        for stage in stages:
            for position in range(9):
                block, stride = f"{stage}.{position}", 2 if stage != "layer1" and position == 0 else 1
                if f"{block}.conv1.weight" not in state:
                    break
                out = x
                for k in range(1, convolutions + 1):
                    step = stride if k == convolutions - 1 else 1
                    out = state.norm(f"{block}.bn{k}", state.conv(f"{block}.conv{k}", out, step))
                    out = F.relu(out) if k < convolutions else out
                if f"{block}.{shortcut}.0.weight" in state:
                    x = state.norm(f"{block}.{shortcut}.1", state.conv(f"{block}.{shortcut}.0", x, stride))
                x = F.relu(out + x)
        return state.linear(head, x)

    return forward


def open_lth(state: State, x: Tensor) -> Tensor:
    x = F.relu(state.norm("bn", state.conv("conv", x)))
    position = 0
    while f"blocks.{position}.conv1.weight" in state:
        block = f"blocks.{position}"
        stride = 2 if f"{block}.shortcut.0.weight" in state else 1
        out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
        out = state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out))
        if stride == 2:
            x = state.norm(f"{block}.shortcut.1", state.conv(f"{block}.shortcut.0", x, 2))
        x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def weiaicunzai(state: State, x: Tensor) -> Tensor:
    x = F.relu(state.norm("conv1.1", state.conv("conv1.0", x)))
    for stage in range(2, 6):
        position = 0
        while f"conv{stage}_x.{position}.residual_function.0.weight" in state:
            block, stride = f"conv{stage}_x.{position}", 2 if stage > 2 and position == 0 else 1
            out = x
            for k, step in ((0, 1), (3, stride), (6, 1)):
                out = state.conv(f"{block}.residual_function.{k}", out, step)
                out = state.norm(f"{block}.residual_function.{k + 1}", out)
                out = F.relu(out) if k < 6 else out
            if position == 0:
                x = state.norm(f"{block}.shortcut.1", state.conv(f"{block}.shortcut.0", x, stride))
            x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def kuangliu_preact(state: State, x: Tensor) -> Tensor:
    x = state.conv("conv1", x)
    blocks = [key.removesuffix(".bn1.weight") for key in state.weights if key.endswith(".bn1.weight")]
    for block in blocks:
        stride = 2 if block.endswith(".0") and block != "layer1.0" else 1
        out = F.relu(state.norm(f"{block}.bn1", x))
        if f"{block}.shortcut.0.weight" in state:
            x = state.conv(f"{block}.shortcut.0", out, stride)
        if f"{block}.conv3.weight" in state:
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv1", out)))
            out = F.relu(state.norm(f"{block}.bn3", state.conv(f"{block}.conv2", out, stride)))
            x = state.conv(f"{block}.conv3", out) + x
        else:
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv1", out, stride)))
            x = state.conv(f"{block}.conv2", out) + x
    return state.linear("linear", x)


def paper(state: State, x: Tensor) -> Tensor:
    """Equation (1) of the paper, with the input embedding and the output block of its appendix A.1."""
    x = F.relu(state.norm("bn1", state.conv("conv1", x)))
    blocks = [key.removesuffix(".conv1.weight") for key in state.weights if key.endswith(".conv1.weight")]
    for block in blocks:
        stride = 2 if block.endswith(".0") and block != "layer1.0" else 1
        out = state.conv(f"{block}.conv1", F.relu(state.norm(f"{block}.bn1", x)), stride)
        out = state.conv(f"{block}.conv2", F.relu(state.norm(f"{block}.bn2", out)))
        if f"{block}.downsample.weight" in state:
            x = state.conv(f"{block}.downsample", x, stride)
        x = x + out
    return state.linear("fc", F.relu(state.norm("norm", x)))


ORIGINALS: dict[str, tuple[Callable[[State, Tensor], Tensor], dict[str, str]]] = {
    "torchvision version 1": (torchvision_v1, {"stride": "1x1"}),
    "cifar option A": (option_a(lambda extra: extra // 2), {}),
    "cifar option A, trailing": (option_a(lambda extra: 0), {"padding": "trailing"}),
    "cifar option B": (numbered("shortcut", "linear", 2), {}),
    "cifar bottleneck": (numbered("shortcut", "linear", 3), {}),
    "cifar chenyaofo": (numbered("downsample", "fc", 2), {}),
    "cifar open_lth": (open_lth, {}),
    "cifar weiaicunzai": (weiaicunzai, {}),
    "cifar preact": (kuangliu_preact, {}),
    "cifar preact bottleneck": (kuangliu_preact, {}),
    "preact stem norm": (paper, {}),
}
