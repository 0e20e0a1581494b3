"""A network and an adapter such as a user has, for the tests of `resprune.wrap`."""

from __future__ import annotations

from typing import Any

from conftest import randomise
from torch import Tensor, nn

from resprune.families import Family, Part, Parts, chop, named
from resprune.records import Architecture, Preprocessing, PrunePlan

RECIPE = Preprocessing(3, 32, 32, (0.5,) * 3, (0.5,) * 3)


class Own(nn.Module):
    """Five blocks in a flat `nn.Sequential`, the third with a projection; biases, GELU or ReLU."""

    def __init__(self, act: type[nn.Module] = nn.ReLU, positive: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), act() if positive else nn.Identity())
        widths = [(6, 6), (6, 6), (6, 9), (9, 9), (9, 9)]
        self.body = nn.Sequential(*(OwnBlock(*pair, act) for pair in widths))
        self.classify = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.body(self.stem(x)).mean((2, 3)))


class OwnBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(width_out)
        self.project = nn.Conv2d(width_in, width_out, 1, 2) if width_in != width_out else None
        self.conv.stride = (1, 1) if self.project is None else (2, 2)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.project is None else self.project(x)
        return self.act(self.norm(self.conv(x)) + skip)


class OwnFamily(Family):
    name = "own"

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, Own)
        head = named(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classify=network.classify)
        return Parts(network.stem, chop(network, ["body"], self.part), head)

    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, OwnBlock)
        skip = named() if block.project is None else named(project=block.project)
        return Part(path, stage, block, skip, nn.Sequential(block.conv, block.norm), block.act)


class BuiltFamily(OwnFamily):
    def build(self, architecture: Architecture) -> nn.Module:
        return Own()


def own(**options: Any) -> Own:
    network = Own(**options).eval()
    randomise(network, 0)
    return network


def removing(depth: int, *removed: int) -> PrunePlan:
    return PrunePlan("test", removed, tuple(k for k in range(depth) if k not in removed))
