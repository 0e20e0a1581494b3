"""What schemas are written in: kinds of values, and figures that many results have."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def record(fields: Schema, description: str = "") -> Schema:
    """Return the schema of an object; a name that ends in ``?`` may be missing."""
    told = {"description": description} if description else {}
    return {
        "type": "object",
        **told,
        "properties": {name.removesuffix("?"): field for name, field in fields.items()},
        "required": [name for name in fields if not name.endswith("?")],
    }


def number(description: str, **limits: float) -> Schema:
    """Return the schema of a number; limits by their names in JSON Schema."""
    return {"type": "number", "description": description, **limits}


def count(description: str) -> Schema:
    """Return the schema of a whole number from 0."""
    return {"type": "integer", "minimum": 0, "description": description}


def text(description: str, *values: str) -> Schema:
    """Return the schema of a text, or of one of some values."""
    return {"type": "string", "description": description, **({"enum": list(values)} if values else {})}


def array(items: Schema, length: int | None = None) -> Schema:
    """Return the schema of a list, of so many items where a length is given."""
    exactly = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **exactly}


def or_null(own: Schema) -> Schema:
    """Return a schema that allows null besides."""
    return {"anyOf": [own, {"type": "null"}]}


def ref(name: str) -> Schema:
    """Return what stands for a part in ``$defs``."""
    return {"$ref": f"#/$defs/{name}"}


TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
INDEX: Schema = {"type": "integer", "minimum": 0}
FREE: Schema = {"type": "object"}
ACCURACY = or_null(number("Top 1, fraction of one; null without labels.", minimum=0, maximum=1))
FRACTION = number("Fraction of one.", minimum=0, maximum=1)
LOSS = or_null(number("Mean cross-entropy, nats; null without labels."))
DIVERGENCE = number("Mean Kullback-Leibler divergence of the class probabilities, nats.")
MACS = count("Multiply-accumulates for one image.")
PARAMETERS = count("Number of parameters.")
FIGURES: Schema = {"accuracy": ACCURACY, "loss": LOSS}
SIZE: Schema = {"parameters": PARAMETERS, "macs": MACS}
OUTPUT = record({"folder": TEXT, "files": array(TEXT)})
HASHES: Schema = {
    "type": "object",
    "description": "Only in report.json: SHA-256 of the folder's files by name.",
    "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
TIMING: Schema = {
    "mode": text("How the network was run.", "eager", "compiled", "onnxruntime"),
    "latency_ms": record({"median": number("Milliseconds."), "iqr": number("Milliseconds.")}),
    "throughput": number("Images a second."),
    "peak_memory_bytes": or_null(count("Bytes that tensors take at most during a call.")),
}
OUTCOMES = record(
    dict.fromkeys(("both", "only_checkpoint", "only_against", "neither"), INDEX),
    "Number of images that both, one alone or neither gets right.",
)
