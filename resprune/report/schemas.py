"""JSON Schemas (draft 2020-12) of what commands print with ``--json``.

Keys are only ever added, so a schema admits others than it names; the tests close it, and a key that is printed
and not described here fails them.
"""

from __future__ import annotations

import json
from typing import Any

from resprune.errors import UsageError

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema(command: str) -> Schema:
    """Return the schema of what a command prints, complete in itself.

    Raises:
        UsageError: where the command has none.
    """
    if command not in COMMANDS:
        raise UsageError(f"no command {command!r} that prints JSON", hint=f"use {', '.join(COMMANDS)}")
    title, body = COMMANDS[command]
    head = {"schema": {"const": f"resprune/{command}/1"}, "version": TEXT, "checkpoint": _ref("network")}
    if command != "inspect":
        head["made?"] = _ref("made")
    whole = _object({**head, **body}, title)
    parts: Schema = {}
    waiting = [whole]
    while waiting:
        text = json.dumps(waiting.pop())
        for name in PARTS.keys() - parts.keys():
            if f'"#/$defs/{name}"' in text:
                parts[name] = PARTS[name]
                waiting.append(PARTS[name])
    return {"$schema": DRAFT, **whole, "$defs": dict(sorted(parts.items()))}


def _object(fields: Schema, description: str = "") -> Schema:
    """Return the schema of an object; a name that ends in ``?`` may be missing."""
    told = {"description": description} if description else {}
    return {
        "type": "object",
        **told,
        "properties": {name.removesuffix("?"): field for name, field in fields.items()},
        "required": [name for name in fields if not name.endswith("?")],
    }


def _number(description: str, **limits: float) -> Schema:
    return {"type": "number", "description": description, **limits}


def _count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def _text(description: str, *values: str) -> Schema:
    return {"type": "string", "description": description, **({"enum": list(values)} if values else {})}


def _list(items: Schema, length: int | None = None) -> Schema:
    exactly = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **exactly}


def _or_null(own: Schema) -> Schema:
    return {"anyOf": [own, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
INDEX: Schema = {"type": "integer", "minimum": 0}
FREE: Schema = {"type": "object"}
ACCURACY = _or_null(_number("Top 1, fraction of one; null without labels.", minimum=0, maximum=1))
FRACTION = _number("Fraction of one.", minimum=0, maximum=1)
LOSS = _or_null(_number("Mean cross-entropy, nats; null without labels."))
DIVERGENCE = _number("Mean Kullback-Leibler divergence of the class probabilities, nats.")
MACS = _count("Multiply-accumulates for one image.")
PARAMETERS = _count("Number of parameters.")
FIGURES: Schema = {"accuracy": ACCURACY, "loss": LOSS}
SIZE: Schema = {"parameters": PARAMETERS, "macs": MACS}
OUTPUT = _object({"folder": TEXT, "files": _list(TEXT)})
HASHES: Schema = {
    "type": "object",
    "description": "Only in report.json: SHA-256 of the folder's files by name.",
    "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
TIMING: Schema = {
    "mode": _text("How the network was run.", "eager", "compiled", "onnxruntime"),
    "latency_ms": _object({"median": _number("Milliseconds."), "iqr": _number("Milliseconds.")}),
    "throughput": _number("Images a second."),
    "peak_memory_bytes": _or_null(_count("Bytes that tensors take at most during a call.")),
}
OUTCOMES = _object(
    dict.fromkeys(("both", "only_checkpoint", "only_against", "neither"), INDEX),
    "Number of images that both, one alone or neither gets right.",
)

PARTS: dict[str, Schema] = {
    "network": _object(
        {
            "path": TEXT,
            "sha256": _text("Of the weights file; empty where only a header was read."),
            "family": _or_null(TEXT),
            "architecture": _or_null(TEXT),
            "blocks": _or_null(INDEX),
            "parameters": _or_null(PARAMETERS),
            "macs": _or_null(MACS),
        },
        "A network; of an ONNX file only path and hash are known.",
    ),
    "data": _object(
        {
            "spec": TEXT,
            "split": _or_null(TEXT),
            "samples": INDEX,
            "sha256?": _text("Of all files of the split."),
            "sha256_of?": _text("What of them was hashed.", "names and bytes", "names and sizes"),
            "preprocessing?": _ref("preprocessing"),
        },
        "Images that were read.",
    ),
    "preprocessing": _object(
        {
            "channels": INDEX,
            "height": INDEX,
            "width": INDEX,
            "mean": _list({"type": "number"}),
            "std": _list({"type": "number"}),
            "resize": _or_null(INDEX),
            "interpolation": TEXT,
            "source": _text("Where these figures come from."),
        },
        "How an image becomes the network's input.",
    ),
    "made": _object(
        {
            "command": TEXT,
            "seed": INDEX,
            "versions": FREE,
            "threads": _or_null(INDEX),
            "config": _or_null(_object({"file": TEXT, "sha256": TEXT, "options": FREE})),
        },
        "How a command made the result.",
    ),
    "read_back": _or_null(
        _object(
            {
                "max_abs_difference": _number("Of two logits."),
                "tolerance": _number("At most so much was allowed."),
                "inputs": _text("What both were given.", "images", "seeded noise"),
                "samples": INDEX,
                "readers": _list(TEXT),
                "new_process": TRUTH,
            },
            "What was written, read again.",
        )
    ),
    "figures": _object(FIGURES),
    "judged": _object(FIGURES | {"divergence": DIVERGENCE}),
    "verified": _object(
        {
            "max_abs_difference": _number("Of two logits."),
            "against": TEXT,
            "tolerance": _number("At most so much was allowed."),
            "samples": INDEX,
        }
    ),
    "remedies": _list(
        _object({"flags": TEXT, "accuracy": FRACTION, "before": FRACTION, "samples": INDEX}),
    ),
    "class": _or_null(_object({"index": INDEX, "name": _or_null(TEXT)})),
    "plan": _object(
        {
            "rule": TEXT,
            "removed": _list(INDEX),
            "kept": _list(INDEX),
            "depth": INDEX,
            "reasons": _list(TEXT),
            "order": _list(INDEX),
            "divergence": _or_null(DIVERGENCE),
            "speed": _or_null(
                _object(
                    {
                        "factor": _number("Time of the original over the pruned network's."),
                        "quartiles": _list({"type": "number"}, 2),
                        "batch_size": INDEX,
                        "threads": INDEX,
                        "device": TEXT,
                    }
                )
            ),
            "beside": _list(
                _object({"method": TEXT, "removed": _list(INDEX), "divergence": DIVERGENCE, "macs": MACS})
            ),
        },
        "Which blocks go, and why.",
    ),
    "recovery": _object(
        {
            "kind": _text("What was tried.", "batch-norm statistics", "compensation", "healing"),
            "split": _or_null(TEXT),
            "images": INDEX,
            "held_out": INDEX,
            "divergence": _object({"before": _or_null(DIVERGENCE), "after": _or_null(DIVERGENCE)}),
            "kept": TRUTH,
            "removed": _count("Blocks that were gone by then."),
            "figures": _or_null(_ref("figures")),
            "recipe": _or_null(FREE),
        }
    ),
    "condition": _object(
        {
            "name": _text("The option without its dashes, or hashes."),
            "unit": _text("Of all figures of the condition."),
            "measured": _or_null(_number("Null where it could not be measured.")),
            "limit": _number("Most or least that is allowed."),
            "upper": {"type": "boolean", "description": "Whether the limit is the most."},
            "interval": _or_null(_list({"type": "number"}, 2)),
            "verdict": _text("What it comes to.", "passed", "failed", "not measured"),
            "within_noise": {
                "type": "boolean",
                "description": "Passed with a figure beyond the limit, because the interval reaches the limit.",
            },
            "detail": TEXT,
        }
    ),
    "block": _object(
        {
            "index": INDEX,
            "path": TEXT,
            "stage": INDEX,
            "exit_accuracy": ACCURACY,
            "exit_loss": LOSS,
            "residual_norm": _number("Root mean square over images of an L2 norm over classes.", minimum=0),
            "residual_norm_relative": _number("The same over that of the output.", minimum=0),
            "parameter_norm": _number("L2 norm of the branch's parameters.", minimum=0),
            "drop_change_relative": _or_null(_number("Change of the output without the block.", minimum=0)),
            "drop_agreement": _or_null(FRACTION),
            **SIZE,
        }
    ),
}

_RUN: Schema = {
    "data": _ref("data"),
    "held_out": _or_null(_ref("data")),
    "teacher": _or_null(
        _object({"path": TEXT, "sha256": TEXT}, "Whose output the final output stays close to.")
    ),
    **dict.fromkeys(("epoch", "epochs", "steps"), INDEX),
    "seconds": {"type": "number"},
    **{name: _or_null({"type": "number"}) for name in ("images_per_second", "rate", "gamma")},
    "train": _object(
        {
            name: _or_null({"type": "number"})
            for name in ("objective", "loss", "exit_loss", "distillation", "branch_penalty")
        }
    ),
    "final": _ref("figures"),
    "exits": _list(_ref("figures")),
    "last_stage_accuracy": ACCURACY,
    "zero_branches": _list(INDEX),
    "score": _or_null({"type": "number"}),
    "best": TRUTH,
    "best_epoch": INDEX,
    "read_back?": _ref("read_back"),
    "output?": OUTPUT,
    "files?": HASHES,
}

COMMANDS: dict[str, tuple[str, Schema]] = {
    "inspect": (
        "What resprune inspect --json prints.",
        {
            "format": TEXT,
            "stages": _list(INDEX),
            "layout": _list(_text("A letter a block: b whole, s skip step only, - nothing left.")),
            "options": FREE,
            "classes": INDEX,
            "preprocessing": _ref("preprocessing"),
            "notes": _list(TEXT),
            "assumptions": _list(
                _object({"name": TEXT, "value": TEXT, "others": _list(TEXT), "meaning": TEXT, "given": TRUTH})
            ),
        },
    ),
    "analyze": (
        "What resprune analyze --json prints.",
        {
            "data": _ref("data"),
            "final": _object(FIGURES | {"logits_norm": _number("Root mean square of the L2 norm.")}),
            "blocks": _list(_ref("block")),
            "tolerance": _number("Of the suggested depth."),
            "suggested_depth": INDEX,
            "classwise": _or_null(
                _object(
                    {
                        "names": _or_null(_list(TEXT)),
                        "counts": _list(INDEX),
                        "accuracy": _list(_list(ACCURACY)),
                    },
                    "Accuracy of every exit 0..N, a list over the classes; null for a class without images.",
                )
            ),
            "control": _or_null(
                _object(
                    {
                        "removed": INDEX,
                        "change_relative": _list({"type": "number"}),
                        "agreement": _list(FRACTION),
                    }
                )
            ),
            "bounds?": _object(
                {
                    "sub": _ref("network"),
                    **{name: {"type": "number"} for name in ("gamma", "lambda", "L_bar")},
                    "bound_1": _object({name: {"type": "number"} for name in ("J", "J_bar", "gap")}),
                    "bound_2": _object({name: {"type": "number"} for name in ("L_avg", "L_bar_avg", "gap")}),
                },
                "Terms of the paper's Theorems 1 and 2, nats.",
            ),
            "remedies?": _ref("remedies"),
        },
    ),
    "prune": (
        "What resprune prune --json prints, with --dry-run too.",
        {
            "data?": _or_null(_ref("data")),
            "choice": _or_null(_ref("data")),
            "plan": _ref("plan"),
            "before": _object(FIGURES | SIZE),
            "raw": _ref("figures"),
            "after": _object(FIGURES | SIZE),
            "recovery": _list(_ref("recovery")),
            "controls": _list(
                _object(
                    {
                        "kind": _text("Of the network.", "random", "scratch"),
                        "seed": INDEX,
                        "removed": _list(INDEX),
                        "macs": MACS,
                        "raw": _or_null(_ref("figures")),
                        "after": _ref("figures"),
                    }
                )
            ),
            "verified": _or_null(_ref("verified")),
            "read_back?": _ref("read_back"),
            "output": _or_null(OUTPUT),
            "remedies?": _ref("remedies"),
            "files?": HASHES,
        },
    ),
    "frontier": (
        "What resprune prune --frontier --json prints.",
        {
            "data": _ref("data"),
            "choice": _ref("data"),
            "method": _text("Which blocks may go next.", "surgical", "stagewise", "tail"),
            "order": _list(INDEX),
            **dict.fromkeys(("threads", "batch_size"), INDEX),
            "device": TEXT,
            "frontier": _list(
                _object(
                    {
                        "removed": _list(INDEX),
                        "blocks": INDEX,
                        **SIZE,
                        "latency_ms": _object(
                            {"median": _number("Milliseconds."), "iqr": _number("The same.")}
                        ),
                        "ratio": _number("Time over the whole network's."),
                        "raw": _ref("judged"),
                        "statistics": _or_null(_ref("judged")),
                        "recovered": _ref("judged"),
                    },
                    "One depth; the network itself is the first.",
                )
            ),
        },
    ),
    "evaluate": (
        "What resprune evaluate --json prints.",
        {
            "data": _ref("data"),
            "accuracy": FRACTION,
            "accuracy_top5": FRACTION,
            "loss": _number("Mean cross-entropy, nats."),
            "remedies?": _ref("remedies"),
        },
    ),
    "compare": (
        "What resprune compare --json prints.",
        {
            "data?": _ref("data"),
            "inputs": _text("What both were given.", "images", "seeded noise"),
            "samples": INDEX,
            "agreement": _or_null(FRACTION),
            "max_abs_difference": _number("Of two logits.", minimum=0),
            "max_rel_difference": _number("The same over the largest logit.", minimum=0),
            "divergence": _or_null(DIVERGENCE),
            **FIGURES,
            "against": _object({"checkpoint": _ref("network"), **FIGURES}),
            "outcomes": _or_null(OUTCOMES),
            "disagreements": _or_null(
                _object(
                    {
                        "count": INDEX,
                        "limit": INDEX,
                        "images": _list(
                            _object(
                                {
                                    "index": INDEX,
                                    "image": TEXT,
                                    **{name: _ref("class") for name in ("label", "checkpoint", "against")},
                                }
                            )
                        ),
                    }
                )
            ),
        },
    ),
    "bench": (
        "What resprune bench --json prints.",
        {
            **TIMING,
            **dict.fromkeys(("rounds", "threads", "batch_size"), INDEX),
            "device": TEXT,
            "input": _list(INDEX, 3),
            "channels_last": TRUTH,
            "against?": _object({"checkpoint": _ref("network"), **TIMING}),
            "ratio?": _number("Time of the checkpoint over the other's."),
            "ratio_quartiles?": _list({"type": "number"}, 2),
        },
    ),
    "export": (
        "What resprune export --json prints.",
        {
            "format": TEXT,
            "zeroed": _or_null(_object({"blocks": INDEX, **SIZE})),
            "folded": INDEX,
            "merged": INDEX,
            "verified": _ref("verified"),
            "output": OUTPUT,
        },
    ),
    "finetune": ("What resprune finetune --json prints, and a line of metrics.jsonl.", _RUN),
    "check": (
        "What resprune check --json prints.",
        {
            "data?": _ref("data"),
            **FIGURES,
            "against": _or_null(_object({"checkpoint": _ref("network"), **FIGURES})),
            "outcomes": _or_null(OUTCOMES),
            "confidence": FRACTION,
            "strict": TRUTH,
            "conditions": _list(_ref("condition")),
            "verdict": _text("What they come to.", "passed", "failed", "not measured"),
            "exit_status": {"enum": [0, 1, 3]},
        },
    ),
}
