"""What several commands print, by its name in a schema's ``$defs``."""

from __future__ import annotations

from resprune.report.schemas.words import (
    ACCURACY,
    DIVERGENCE,
    FIGURES,
    FRACTION,
    FREE,
    INDEX,
    LOSS,
    MACS,
    PARAMETERS,
    SIZE,
    TEXT,
    TRUTH,
    Schema,
    array,
    count,
    number,
    or_null,
    record,
    ref,
    text,
)

PARTS: dict[str, Schema] = {
    "network": record(
        {
            "path": TEXT,
            "sha256": text("Of the weights file; empty where only a header was read."),
            "family": or_null(TEXT),
            "architecture": or_null(TEXT),
            "blocks": or_null(INDEX),
            "parameters": or_null(PARAMETERS),
            "macs": or_null(MACS),
        },
        "A network; of an ONNX file only path and hash are known.",
    ),
    "data": record(
        {
            "spec": TEXT,
            "split": or_null(TEXT),
            "samples": INDEX,
            "sha256?": text("Of all files of the split."),
            "sha256_of?": text("What of them was hashed.", "names and bytes", "names and sizes"),
            "preprocessing?": ref("preprocessing"),
        },
        "Images that were read.",
    ),
    "preprocessing": record(
        {
            "channels": INDEX,
            "height": INDEX,
            "width": INDEX,
            "mean": array({"type": "number"}),
            "std": array({"type": "number"}),
            "resize": or_null(INDEX),
            "interpolation": TEXT,
            "source": text("Where these figures come from."),
        },
        "How an image becomes the network's input.",
    ),
    "made": record(
        {
            "command": TEXT,
            "seed": INDEX,
            "versions": FREE,
            "threads": or_null(INDEX),
            "config": or_null(record({"file": TEXT, "sha256": TEXT, "options": FREE})),
        },
        "How a command made the result.",
    ),
    "read_back": or_null(
        record(
            {
                "max_abs_difference": number("Of two logits."),
                "tolerance": number("At most so much was allowed."),
                "inputs": text("What both were given.", "images", "seeded noise"),
                "samples": INDEX,
                "readers": array(TEXT),
                "new_process": TRUTH,
            },
            "What was written, read again.",
        )
    ),
    "figures": record(FIGURES),
    "judged": record(FIGURES | {"divergence": DIVERGENCE}),
    "verified": record(
        {
            "max_abs_difference": number("Of two logits."),
            "against": TEXT,
            "tolerance": number("At most so much was allowed."),
            "samples": INDEX,
        }
    ),
    "remedies": array(
        record({"flags": TEXT, "accuracy": FRACTION, "before": FRACTION, "samples": INDEX}),
    ),
    "class": or_null(record({"index": INDEX, "name": or_null(TEXT)})),
    "plan": record(
        {
            "rule": TEXT,
            "removed": array(INDEX),
            "kept": array(INDEX),
            "depth": INDEX,
            "reasons": array(TEXT),
            "order": array(INDEX),
            "divergence": or_null(DIVERGENCE),
            "speed": or_null(
                record(
                    {
                        "factor": number("Time of the original over the pruned network's."),
                        "quartiles": array({"type": "number"}, 2),
                        "batch_size": INDEX,
                        "threads": INDEX,
                        "device": TEXT,
                    }
                )
            ),
            "drop": or_null(
                record(
                    {
                        "points": number("Of accuracy lost on held-out images."),
                        "samples": INDEX,
                        "interval": array({"type": "number"}, 2),
                    }
                )
            ),
            "beside": array(
                record(
                    {"method": TEXT, "removed": array(INDEX), "divergence": or_null(DIVERGENCE), "macs": MACS}
                )
            ),
            "rivals": array(
                record({"removed": array(INDEX), "steps": INDEX, "divergence": or_null(DIVERGENCE)})
            ),
        },
        "Which blocks go, and why.",
    ),
    "recovery": record(
        {
            "kind": text("What was tried.", "batch-norm statistics", "compensation", "healing"),
            "split": or_null(TEXT),
            "images": INDEX,
            "held_out": INDEX,
            "divergence": record({"before": or_null(DIVERGENCE), "after": or_null(DIVERGENCE)}),
            "kept": TRUTH,
            "removed": count("Blocks that were gone by then."),
            "figures": or_null(ref("figures")),
            "recipe": or_null(FREE),
        }
    ),
    "condition": record(
        {
            "name": text("The option without its dashes, or hashes."),
            "unit": text("Of all figures of the condition."),
            "measured": or_null(number("Null where it could not be measured.")),
            "limit": number("Most or least that is allowed."),
            "upper": {"type": "boolean", "description": "Whether the limit is the most."},
            "interval": or_null(array({"type": "number"}, 2)),
            "verdict": text("What it comes to.", "passed", "failed", "not measured"),
            "within_noise": {
                "type": "boolean",
                "description": "Passed with a figure beyond the limit, because the interval reaches the limit.",
            },
            "detail": TEXT,
        }
    ),
    "block": record(
        {
            "index": INDEX,
            "path": TEXT,
            "stage": INDEX,
            "exit_accuracy": ACCURACY,
            "exit_loss": LOSS,
            "residual_norm": number("Root mean square over images of an L2 norm over classes.", minimum=0),
            "residual_norm_relative": number("The same over that of the output.", minimum=0),
            "parameter_norm": number("L2 norm of the branch's parameters.", minimum=0),
            "drop_change_relative": or_null(number("Change of the output without the block.", minimum=0)),
            "drop_agreement": or_null(FRACTION),
            **SIZE,
        }
    ),
}
