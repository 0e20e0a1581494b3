"""Projections that follow each other without anything between them become one, in a traced network.

Where a pre-activation network lost two stages, one bare projection reads the other: W2 (W1 x), every (s1 s2)-th
pixel. That is the projection W2 W1 of stride s1 s2, exact up to rounding. Between the projections of all other
networks stands a norm or an activation, and they are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from resprune.exporting.folding import CONVOLUTION, put_tensors, tidy, value_of


@dataclass(frozen=True, eq=False)
class _Projection:
    """A 1x1 convolution of a graph: it mixes the channels of single pixels.

    Attributes:
        weight: (out, in).
        bias: (out,) or None.
        stride: Of rows and columns.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]


@torch.no_grad()
def merge_projections(module: fx.GraphModule) -> int:
    """Merge every 1x1 convolution into the one that alone reads it, in place; returns how many went.

    One that narrows much is left, where the product would cost more multiply-accumulates than both.

    Args:
        module: What `torch.export` traced in eval mode, unlifted.
    """
    count = 0
    for node in list(module.graph.nodes):
        second = _projection(module, node)
        before = node.args[0] if second else None
        if second is None or not isinstance(before, fx.Node) or len(before.users) != 1:
            continue
        first = _projection(module, before)
        if first is None or not _is_worth(first, second):
            continue
        weight = second.weight.double() @ first.weight.double()
        bias = second.bias
        if first.bias is not None:
            bias = second.weight.double() @ first.bias.double()
            bias = bias if second.bias is None else bias + second.bias
        tensors = {"weight": weight[:, :, None, None]} | ({} if bias is None else {"bias": bias})
        tensors = {name: tensor.to(second.weight.dtype) for name, tensor in tensors.items()}
        placed = put_tensors(module, before, f"merged_{count}", tensors)
        stride = [a * b for a, b in zip(first.stride, second.stride, strict=True)]
        node.args = (before.args[0], placed["weight"], placed.get("bias"), stride)
        node.kwargs = {}
        module.graph.erase_node(before)
        count += 1
    tidy(module)
    return count


def _is_worth(first: _Projection, second: _Projection) -> bool:
    """Whether the product takes no more multiply-accumulates, counted for a pixel of the output."""
    (middle, inputs), outputs = first.weight.shape, len(second.weight)
    rows, columns = second.stride
    return outputs * inputs <= middle * inputs * rows * columns + outputs * middle


def _projection(module: fx.GraphModule, node: fx.Node) -> _Projection | None:
    """Return a node as a projection, or None where it is something else."""
    if node.target is not CONVOLUTION or node.kwargs:
        return None
    given: tuple[Any, ...] = (*node.args, *(None, [1, 1], [0, 0], [1, 1], 1)[len(node.args) - 2 :])
    _, weight, bias, stride, padding, _, groups = given
    named = [own for own in (weight, bias) if own is not None]
    if not all(isinstance(own, fx.Node) and own.op == "get_attr" for own in named):
        return None
    tensor = value_of(module, weight)
    if tensor.shape[2:] != (1, 1) or any(padding) or groups != 1:
        return None
    return _Projection(tensor[:, :, 0, 0], value_of(module, bias), (stride[0], stride[-1]))
