"""Parts of networks as layers one after another, whose last convolution can be fitted."""

from __future__ import annotations

import pytest
import torch
from conftest import make_images
from test_surgery import removing
from torch import Tensor, nn
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.families import Part
from resprune.lines import Line
from resprune.surgery import remove_blocks


class Gate(nn.Sequential):
    """Squeeze and excitation, as many write it."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x * super().forward(x)


class NormAndReLU(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.relu(super().forward(x))


def gate() -> Gate:
    return Gate(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())


def test_a_line_gives_what_its_part_gives(chain: ResidualChain) -> None:
    """Whole, with its branch left out, and where its branch is gone from the network."""
    bare = remove_blocks(chain, removing(chain, *range(chain.depth)))
    with torch.inference_mode():
        for network in (chain, bare):
            x = network.stem(make_images(chain, 3))
            for part in network.parts:
                for line, module in [
                    (Line.of(part), part.module),
                    *([] if part.branch is None else [(Line.of(part, bare=True), part.step())]),
                ]:
                    torch.testing.assert_close(line.activation(line.sum(x)), module(x), rtol=1e-4, atol=1e-5)
                x = part.module(x)


@pytest.mark.parametrize(
    ("layers", "fits"),
    [
        ([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)], True),
        ([nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4))], True),
        ([gate(), nn.Conv2d(4, 4, 1)], True),
        ([nn.Conv2d(4, 4, 1), gate()], False),
        ([nn.Conv2d(4, 4, 1), NormAndReLU(4)], False),
    ],
)
def test_layers_of_a_user_are_taken_as_what_their_forward_does(layers: list[nn.Module], fits: bool) -> None:
    branch = nn.Sequential(*layers).eval()
    part = Part("block", 0, nn.Identity(), nn.Sequential(), branch, nn.ReLU())
    line, x = Line.of(part), torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert line.can_be_fitted == fits
    with torch.inference_mode():
        torch.testing.assert_close(line.activation(line.sum(x)), F.relu(x + branch(x)))


def test_pieces_one_after_another_are_the_line(chain: ResidualChain) -> None:
    """Each sees what the one before it gives, and every convolution that can be fitted ends one."""
    with torch.inference_mode():
        x = chain.stem(make_images(chain, 3))
        for part in chain.parts:
            line, total = Line.of(part), x
            pieces = line.pieces
            for piece in pieces:
                total = piece.finish(x, piece.before_convolution(total))
            assert torch.equal(total, line.sum(x))
            assert torch.equal(Line.joined(pieces).sum(x), line.sum(x))
            assert all(piece.can_be_fitted for piece in pieces[:-1])
            assert [piece.convolution for piece in pieces[:-1]] == [inner.convolution for inner in line.inside]
            x = part.module(x)
