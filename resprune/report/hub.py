"""What makes a folder a model repository of the Hugging Face Hub: its card's metadata, and how it is loaded."""

from __future__ import annotations

from pathlib import PurePath

from resprune.records import DataSummary, NetworkSummary

_LINES = {
    "timm": 'import timm\n\nmodel = timm.create_model("local-dir:{folder}", pretrained=True).eval()',
    "torchvision": (
        "import torchvision\nfrom safetensors.torch import load_file\n\n"
        'model = {constructor}.eval()\nmodel.load_state_dict(load_file("{file}"))'
    ),
    "hf": (
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'processor = AutoImageProcessor.from_pretrained("{folder}")\n'
        'model = AutoModelForImageClassification.from_pretrained("{folder}").eval()'
    ),
    "onnx": (
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
        'logits = session.run(["logits"], {{"images": images}})[0]'
    ),
    "torch-export": 'import torch\n\nmodel = torch.export.load("{file}").module()',
    "safetensors": 'import resprune\n\nmodel = resprune.load("{folder}").network  # an nn.Module in eval mode',
    "adapter": 'import resprune\n\nmodel = resprune.load("{folder}", family=adapter).network  # an nn.Module',
}
"""By format; an adapter is one of the user's own."""


def loading(format: str, *, folder: str = "", file: str = "", constructor: str = "") -> str:  # noqa: A002
    """Return the lines of Python that load a network.

    Args:
        format: A format of exports.
        folder: Name of what is loaded.
        file: The same where it is a file.
        constructor: Expression of torchvision's that builds the network.
    """
    return _LINES[format].format(folder=folder, file=file, constructor=constructor)


def front_matter(
    library: str,
    origin: NetworkSummary,
    *,
    name: str = "",
    accuracy: float | None = None,
    data: DataSummary | None = None,
) -> str:
    """Return the card's metadata between its two lines of dashes; no licence, since none is known.

    Args:
        library: What loads the folder.
        origin: Where the network came from; a base model where the Hub has it under that name.
        name: Of the folder, for the figures.
        accuracy: Top 1, fraction of one.
        data: What that was measured on.
    """
    from huggingface_hub import EvalResult, ModelCardData  # a quarter of a second, and only cards need it

    figures = None
    if accuracy is not None and data is not None:
        result = EvalResult(
            task_type="image-classification",
            dataset_type="local",  # images of the user's, whatever the Hub may have under that name
            dataset_name=PurePath(data.spec).name,
            dataset_split=data.split,
            metric_type="accuracy",
            metric_value=accuracy,
        )
        figures = [result]
    source = origin.origin.path
    card = ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=["image-classification", "resprune", "pruning"],
        base_model=source if source.startswith("timm/") and "." in source else None,
        model_name=name if figures else None,
        eval_results=figures,
    )
    return f"---\n{card.to_yaml()}\n---\n"
