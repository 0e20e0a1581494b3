"""What every command prints beside the head that all have."""

from __future__ import annotations

from resprune.report.schemas.words import (
    ACCURACY,
    DIVERGENCE,
    FIGURES,
    FRACTION,
    FREE,
    HASHES,
    INDEX,
    MACS,
    OUTCOMES,
    OUTPUT,
    SIZE,
    TEXT,
    TIMING,
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

_RUN: Schema = {
    "data": ref("data"),
    "held_out": or_null(ref("data")),
    "teacher": or_null(record({"path": TEXT, "sha256": TEXT}, "Whose output the final output stays close to.")),
    **dict.fromkeys(("epoch", "epochs", "steps"), INDEX),
    "seconds": {"type": "number"},
    **{name: or_null({"type": "number"}) for name in ("images_per_second", "rate", "gamma")},
    "train": record(
        {
            name: or_null({"type": "number"})
            for name in ("objective", "loss", "exit_loss", "distillation", "branch_penalty")
        }
    ),
    "final": ref("figures"),
    "exits": array(ref("figures")),
    "last_stage_accuracy": ACCURACY,
    "zero_branches": array(INDEX),
    "score": or_null({"type": "number"}),
    "best": TRUTH,
    "best_epoch": INDEX,
    "read_back?": ref("read_back"),
    "output?": OUTPUT,
    "files?": HASHES,
}

_LIBRARY = record(
    {
        "name": TEXT,
        "version": or_null(TEXT),
        "needed": text("What resprune asks for."),
        "extra": text("That asks for it; empty for the core."),
        "problem": text("Why it cannot be used; empty where it can."),
    }
)

COMMANDS: dict[str, tuple[str, Schema]] = {
    "inspect": (
        "What resprune inspect --json prints.",
        {
            "format": TEXT,
            "stages": array(INDEX),
            "layout": array(text("A letter a block: b whole, s skip step only, - nothing left.")),
            "options": FREE,
            "classes": INDEX,
            "preprocessing": ref("preprocessing"),
            "notes": array(TEXT),
            "assumptions": array(
                record({"name": TEXT, "value": TEXT, "others": array(TEXT), "meaning": TEXT, "given": TRUTH})
            ),
        },
    ),
    "analyze": (
        "What resprune analyze --json prints.",
        {
            "data": ref("data"),
            "final": record(FIGURES | {"logits_norm": number("Root mean square of the L2 norm.")}),
            "blocks": array(ref("block")),
            "tolerance": number("Of the suggested depth."),
            "suggested_depth": INDEX,
            "classwise": or_null(
                record(
                    {
                        "names": or_null(array(TEXT)),
                        "counts": array(INDEX),
                        "accuracy": array(array(ACCURACY)),
                    },
                    "Accuracy of every exit 0..N, a list over the classes; null for a class without images.",
                )
            ),
            "control": or_null(
                record(
                    {
                        "removed": INDEX,
                        "change_relative": array({"type": "number"}),
                        "agreement": array(FRACTION),
                    }
                )
            ),
            "bounds?": record(
                {
                    "sub": ref("network"),
                    **{name: {"type": "number"} for name in ("gamma", "lambda", "L_bar")},
                    "bound_1": record({name: {"type": "number"} for name in ("J", "J_bar", "gap")}),
                    "bound_2": record({name: {"type": "number"} for name in ("L_avg", "L_bar_avg", "gap")}),
                },
                "Terms of the paper's Theorems 1 and 2, nats.",
            ),
            "remedies?": ref("remedies"),
        },
    ),
    "prune": (
        "What resprune prune --json prints, with --dry-run too.",
        {
            "data?": or_null(ref("data")),
            "choice": or_null(ref("data")),
            "plan": ref("plan"),
            "before": record(FIGURES | SIZE),
            "raw": ref("figures"),
            "after": record(FIGURES | SIZE),
            "recovery": array(ref("recovery")),
            "controls": array(
                record(
                    {
                        "kind": text("Of the network.", "random", "scratch"),
                        "seed": INDEX,
                        "removed": array(INDEX),
                        "macs": MACS,
                        "raw": or_null(ref("figures")),
                        "after": ref("figures"),
                    }
                )
            ),
            "verified": or_null(ref("verified")),
            "read_back?": ref("read_back"),
            "output": or_null(OUTPUT),
            "remedies?": ref("remedies"),
            "files?": HASHES,
        },
    ),
    "frontier": (
        "What resprune prune --frontier --json prints.",
        {
            "data": ref("data"),
            "choice": ref("data"),
            "method": text("Which blocks may go next.", "surgical", "stagewise", "tail"),
            "order": array(INDEX),
            **dict.fromkeys(("threads", "batch_size"), INDEX),
            "device": TEXT,
            "frontier": array(
                record(
                    {
                        "removed": array(INDEX),
                        "blocks": INDEX,
                        **SIZE,
                        "latency_ms": record(
                            {
                                **{name: number("Milliseconds.") for name in ("median", "iqr")},
                                "quartiles?": array({"type": "number"}, 2),
                            }
                        ),
                        "ratio": number("Time over the whole network's."),
                        "raw": ref("judged"),
                        "statistics": or_null(ref("judged")),
                        "recovered": ref("judged"),
                    },
                    "One depth; the network itself is the first.",
                )
            ),
        },
    ),
    "evaluate": (
        "What resprune evaluate --json prints.",
        {
            "data": ref("data"),
            "accuracy": FRACTION,
            "accuracy_top5": FRACTION,
            "loss": number("Mean cross-entropy, nats."),
            "remedies?": ref("remedies"),
        },
    ),
    "compare": (
        "What resprune compare --json prints.",
        {
            "data?": ref("data"),
            "inputs": text("What both were given.", "images", "seeded noise"),
            "samples": INDEX,
            "agreement": or_null(FRACTION),
            "max_abs_difference": number("Of two logits.", minimum=0),
            "max_rel_difference": number("The same over the largest logit.", minimum=0),
            "divergence": or_null(DIVERGENCE),
            **FIGURES,
            "against": record({"checkpoint": ref("network"), **FIGURES}),
            "outcomes": or_null(OUTCOMES),
            "disagreements": or_null(
                record(
                    {
                        "count": INDEX,
                        "limit": INDEX,
                        "images": array(
                            record(
                                {
                                    "index": INDEX,
                                    "image": TEXT,
                                    **{name: ref("class") for name in ("label", "checkpoint", "against")},
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
            "input": array(INDEX, 3),
            "channels_last": TRUTH,
            "against?": record({"checkpoint": ref("network"), **TIMING}),
            "ratio?": number("Time of the checkpoint over the other's."),
            "ratio_quartiles?": array({"type": "number"}, 2),
        },
    ),
    "export": (
        "What resprune export --json prints.",
        {
            "format": TEXT,
            "zeroed": or_null(record({"blocks": INDEX, **SIZE})),
            "folded": INDEX,
            "merged": INDEX,
            "verified": ref("verified"),
            "output": OUTPUT,
        },
    ),
    "finetune": ("What resprune finetune --json prints, and a line of metrics.jsonl.", _RUN),
    "check": (
        "What resprune check --json prints.",
        {
            "data?": ref("data"),
            **FIGURES,
            "against": or_null(record({"checkpoint": ref("network"), **FIGURES})),
            "outcomes": or_null(OUTCOMES),
            "confidence": FRACTION,
            "strict": TRUTH,
            "conditions": array(ref("condition")),
            "verdict": text("What they come to.", "passed", "failed", "not measured"),
            "exit_status": {"enum": [0, 1, 3]},
        },
    ),
    "env": (
        "What resprune env --json prints.",
        {
            "python": TEXT,
            "platform": TEXT,
            "cores": INDEX,
            "threads": or_null(INDEX),
            "memory": count("Bytes that this process may use."),
            "cpu_bf16": or_null(TRUTH),
            "cuda": or_null(text("Version of CUDA that torch was built for.")),
            "accelerators": array(
                record({"name": TEXT, "memory": count("Bytes."), "capability": TEXT, "bf16": TRUTH})
            ),
            "libraries": array(_LIBRARY),
            "extras": {
                "type": "object",
                "description": "By the name of the extra.",
                "additionalProperties": record({"missing": array(TEXT)}),
            },
        },
    ),
    "families": (
        "What resprune families --json prints.",
        {
            "families": array(
                record(
                    {
                        "networks": text("What they are."),
                        "names": array(text("As the library or the authors name them.")),
                        "loads_in": array(text("Whose own classes hold a pruned one.")),
                        "refused": or_null(text("Why they are not read.")),
                    }
                )
            )
        },
    ),
}
