"""Networks as graphs, for use without their classes: torch.export and ONNX, both of any batch size."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from resprune.chain import ResidualChain, seeded_images
from resprune.exporting.folding import fold_batch_norms
from resprune.exporting.merging import merge_projections

ABOUT_FILE = "resprune.json"
"""Name of the text in a torch.export archive that says what the network is."""
_EXAMPLE = 2


@dataclass(frozen=True, eq=False)
class Traced:
    """A network as a graph, and what became of its weights.

    Attributes:
        program: For any batch size, on the CPU.
        folded: Number of batch norms that went into the convolutions before them.
        merged: Number of projections that went into the ones behind them.
    """

    program: ExportedProgram
    folded: int
    merged: int


def trace(chain: ResidualChain, fold: bool) -> Traced:
    """Return a network as a graph; consecutive projections are merged where that is exact.

    Args:
        chain: Left as it is.
        fold: Whether batch norms go into the convolutions before them.
    """
    network = copy.deepcopy(chain.network).cpu().eval().requires_grad_(False)
    example = seeded_images(chain.preprocessing, _EXAMPLE, seed=0)
    program = _export(network, example)
    module = program.module()
    assert isinstance(module, torch.fx.GraphModule)
    merged = merge_projections(module)
    folded = fold_batch_norms(module) if fold else 0
    if merged or folded:
        program = _export(module, example)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)  # paths of this machine, and module paths that mean nothing elsewhere
    return Traced(program, folded, merged)


def _export(network: nn.Module, example: torch.Tensor) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own internals; what matters is read back and compared
        return torch.export.export(network, (example,), dynamic_shapes=(({0: Dim("batch")}),))


def write_torch_export(program: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    """Write a graph as torch.export saves it, what it is beside it; the path must end in ``.pt2``."""
    text = json.dumps(dict(about), indent=2)
    # Neither the example nor anything else of this run belongs in the file.
    program._example_inputs = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # In memory first: torch ends the process where the disk is full.
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={ABOUT_FILE: text})
    path.write_bytes(content.getbuffer())


def to_onnx(program: ExportedProgram, about: Mapping[str, str], optimise: bool) -> Any:
    """Return a graph as an ONNX model: input ``images``, output ``logits``, what it is in the model's metadata.

    Args:
        program: Traced with any batch size.
        about: Into ``metadata_props``.
        optimise: Let the exporter rewrite the graph; it folds batch norms too.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            optimize=optimise,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == batch:
                dim.dim_param = "batch"
    # The exporter notes where every operation came from, with paths of this machine.
    for function in (model.graph, *model.functions):
        _forget(_noted(function))
    _forget([model, model.graph])
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return model


def _noted(graph: Any) -> list[Any]:
    kinds = ("node", "input", "output", "initializer", "value_info")
    return [item for kind in kinds for item in getattr(graph, kind, ())]


def _forget(items: Iterable[Any]) -> None:
    for item in items:
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
        if hasattr(item, "doc_string"):
            item.ClearField("doc_string")
