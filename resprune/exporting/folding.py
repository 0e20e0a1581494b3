"""Batch norms go into the convolutions before them, in a traced network.

Folding works on the graph, not on modules: there it is seen that nothing else reads the convolution's
output, and every library's classes are the same few operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

CONVOLUTION = torch.ops.aten.conv2d.default
_NORM = torch.ops.aten.batch_norm.default


@torch.no_grad()
def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold every batch norm that alone reads a convolution into it, in place; returns how many.

    Exact up to rounding: w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta.

    Args:
        module: What `torch.export` traced in eval mode, unlifted.
    """
    count = 0
    for norm in list(module.graph.nodes):
        if norm.target is not _NORM:
            continue
        convolution = norm.args[0]
        if convolution.target is not CONVOLUTION or len(convolution.users) != 1:
            continue
        x, weight, *others = convolution.args
        bias = others[0] if others else None
        _, scale, shift, mean, variance, training, _, epsilon, *_ = norm.args
        named = (weight, mean, variance, *(node for node in (bias, scale, shift) if node is not None))
        if training or not all(node.op == "get_attr" for node in named):
            continue
        w, b, m, v, g, beta = (value_of(module, node) for node in (weight, bias, mean, variance, scale, shift))
        fused = fuse_conv_bn_weights(w, b, m, v, epsilon, g, beta)
        tensors = dict(zip(("weight", "bias"), fused, strict=True))
        placed = put_tensors(module, convolution, f"folded_{count}", tensors)
        convolution.args = (x, placed["weight"], placed["bias"], *others[1:])
        norm.replace_all_uses_with(convolution)
        module.graph.erase_node(norm)
        count += 1
    tidy(module)
    return count


def put_tensors(
    module: fx.GraphModule, before: fx.Node, prefix: str, tensors: Mapping[Any, Tensor]
) -> dict[str, fx.Node]:
    """Give a traced network new parameters; returns the nodes that get them, in front of another node."""
    placed = {}
    for kind, tensor in tensors.items():
        name = f"{prefix}_{kind}"
        module.register_parameter(name, nn.Parameter(tensor.contiguous(), requires_grad=False))
        with module.graph.inserting_before(before):
            placed[kind] = module.graph.get_attr(name)
    return placed


def tidy(module: fx.GraphModule) -> None:
    """Remove from a traced network, in place, what nothing reads any more."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in module.named_parameters(recurse=False) if name not in used]:
        delattr(module, name)
    module.recompile()


def value_of(module: fx.GraphModule, node: Any) -> Any:
    """Return the tensor that a node gets from the module, None for none."""
    if node is None:
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value
