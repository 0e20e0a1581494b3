"""Layers that are folded or merged on the way out: the same function with fewer of them."""

from __future__ import annotations

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from torch import nn

from resprune import pipeline
from resprune.chain import ResidualChain
from resprune.exporting import graphs
from resprune.exporting.merging import merge_projections


def test_norms_are_folded_where_a_convolution_stands_before_them() -> None:
    post = make_chain(ARCHITECTURES["cifar option A"])
    norms = [module for module in post.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    traced = graphs.trace(post, fold=True)
    assert traced.folded == len(norms)
    assert not [node for node in traced.program.graph.nodes if "batch_norm" in str(node.target)]
    pre = make_chain(ARCHITECTURES["preact homogeneous"])
    # The second norm of a block stands behind its first convolution; the first reads a sum.
    assert graphs.trace(pre, fold=True).folded == pre.depth
    assert graphs.trace(pre, fold=False).folded == 0


def without_two_stages(name: str) -> ResidualChain:
    """Return a network of which the last two stages keep only their skip steps."""
    chain = make_chain(ARCHITECTURES[name])
    stages = len(chain.architecture.stages)
    last = [block.index for block in chain.blocks if block.stage >= stages - 2]
    plan = pipeline.select(remove=last, paths=[block.path for block in chain.blocks])
    return pipeline.prune(chain, plan).chain


@pytest.mark.parametrize("name", ["preact standard", "preact stem norm"])
def test_consecutive_projections_of_pre_activation_networks_are_merged(name: str) -> None:
    chain = without_two_stages(name)
    images = make_images(chain, 3)
    for fold in (False, True):
        traced = graphs.trace(chain, fold)
        assert traced.merged == 1
        kernels = [tensor for tensor in traced.program.state_dict.values() if tensor.shape[2:] == (1, 1)]
        widths = chain.architecture.options["widths"]
        assert [tuple(own.shape[:2]) for own in kernels] == [(widths[2], widths[0])]  # and no dead weights
        got = traced.program.module()(images)
        torch.testing.assert_close(got, chain(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cifar preact", "cifar option B", "timm pre-activation"])
def test_projections_with_something_between_them_are_left(name: str) -> None:
    chain = without_two_stages(name)
    traced = graphs.trace(chain, fold=False)
    assert traced.merged == 0
    assert torch.equal(traced.program.module()(make_images(chain, 2)), chain(make_images(chain, 2)))


def convolutions(*layers: nn.Conv2d) -> tuple[nn.Sequential, torch.fx.GraphModule]:
    network, example = nn.Sequential(*layers).eval().requires_grad_(False), torch.randn(1, 8, 9, 9)
    module = torch.export.export(network, (example,)).module()
    assert isinstance(module, torch.fx.GraphModule)
    return network, module


def test_projections_are_merged_with_biases_and_strides_and_only_where_that_saves() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 8, 9, 9)
    three = [nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 4, 1, (2, 1))]
    network, module = convolutions(*three)
    assert merge_projections(module) == 2
    assert len(list(module.parameters())) == 2
    torch.testing.assert_close(module(images), network(images))
    left = {
        "narrow": [nn.Conv2d(8, 1, 1), nn.Conv2d(1, 8, 1)],
        "padded": [nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, padding=1)],
        "grouped": [nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1)],
        "3x3": [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)],
    }
    for name, layers in left.items():
        network, module = convolutions(*layers)
        assert merge_projections(module) == 0, name
        assert torch.equal(module(images), network(images))
