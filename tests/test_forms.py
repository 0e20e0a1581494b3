"""Every form in which users have a network: the weights that come out are the network's, and notes say how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forms import (
    assert_same,
    averaged_model,
    below,
    inserted,
    other,
    profiled,
    timm_training,
    torchvision_training,
)
from stored import prefixed, weights

from resprune import checkpoint
from resprune.errors import ArchitectureError, CheckpointError, ResPruneError, UsageError
from resprune.records import Claim, Reading
from resprune.unwrap import Unwrapped, unwrap

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "model_ema",
    "state_dict_ema",
    "ema",
    "ema_state_dict",
    "params",
    "params_ema",
    "weights",
)
EMA = Reading(weights="ema")

Form = tuple[Callable[[], object], str]
FORMS: dict[str, Form] = {
    "plain": (weights, ""),
    **{key: (lambda key=key: {key: weights(), "epoch": 3}, f"unwrapped {key}") for key in WRAPPERS},
    "average nested": (lambda: {"ema": {"module": weights(), "decay": 0.9}}, "unwrapped ema.module"),
    "average": (averaged_model, "dropped, not the network's: n_averaged"),
    "data parallel": (lambda: prefixed("module."), "stripped the prefix module."),
    "compiled": (lambda: prefixed("_orig_mod.module."), "stripped the prefix _orig_mod.module."),
    "sharded data parallel": (
        lambda: inserted("_fsdp_wrapped_module."),
        "cut _fsdp_wrapped_module. out of names",
    ),
    "checkpointed": (
        lambda: inserted("_checkpoint_wrapped_module."),
        "cut _checkpoint_wrapped_module. out of names",
    ),
    "any prefix": (lambda: prefixed("my_classifier."), "stripped the prefix my_classifier."),
    "lightning": (
        lambda: {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(7)}, "epoch": 3},
        "dropped beside model.: criterion.weight",
    ),
    "lightning with a teacher": (
        lambda: {"state_dict": prefixed("net.") | below("teacher.", other())},
        "also holds state_dict.teacher: --weights ema reads it",
    ),
    "two names of one tensor": (lambda: weights() | prefixed("module."), "cut module. out of names"),
    "profiled": (profiled, "dropped, not the network's: total_ops, layer1.0.total_params"),
    "openmmlab": (
        lambda: {
            "meta": {},
            "state_dict": {
                (f"head.{k.replace('linear', 'fc')}" if k.startswith("linear") else f"backbone.{k}"): t
                for k, t in weights().items()
            },
        },
        "renamed from OpenMMLab's names",
    ),
    "openmmlab's recipe": (
        lambda: (
            {
                (f"head.{k.replace('linear', 'fc')}" if k.startswith("linear") else f"backbone.{k}"): t
                for k, t in weights().items()
            }
            | {"data_preprocessor.mean": torch.ones(3)}
        ),
        "dropped beside backbone. and head.: data_preprocessor.mean",
    ),
    "classifier beside": (
        lambda: {(k if k.startswith("linear") else f"encoder.{k}"): t for k, t in weights().items()},
        "took the classifier from beside encoder.: linear.weight, linear.bias",
    ),
    "torchvision's training": (torchvision_training, "dropped beside model: optimizer, lr_scheduler"),
    "timm's training": (timm_training, "also holds state_dict_ema: --weights ema reads it"),
}


def read(content: object, how: Reading = checkpoint.READ_SAFELY) -> Unwrapped:
    return unwrap(content, "net.pt", how)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_weights_are_the_network_s(form: Form) -> None:
    make, note = form
    found = read(make())
    renamed = {name.replace("linear.", "fc."): tensor for name, tensor in weights().items()}
    assert_same(found.weights, renamed if "fc.weight" in found.weights else weights())
    assert any(line.startswith(note) for line in found.notes) or not note


AVERAGES: dict[str, Callable[[], object]] = {
    "beside": lambda: {"state_dict": weights(), "state_dict_ema": other()},
    "averaged model": lambda: {
        "model": weights(),
        "model_ema": {"n_averaged": torch.tensor(1), **below("module.", other())},
    },
    "lightning": lambda: {"state_dict": prefixed("model.") | below("ema_model.", other())},
    "openmmlab": lambda: {
        "state_dict": weights(),
        "ema_state_dict": {"steps": torch.tensor(7), **below("module.", other())},
    },
    "prefix beside none": lambda: {"state_dict": weights() | below("model_ema.module.", other())},
}


@pytest.mark.parametrize("make", AVERAGES.values(), ids=AVERAGES)
def test_averaged_weights_are_read_where_asked_for(make: Callable[[], object]) -> None:
    assert_same(read(make()).weights, weights())
    averaged = read(make(), EMA)
    assert_same(averaged.weights, other())
    assert any("--weights model reads it" in note for note in averaged.notes)


CLAIMS: dict[str, tuple[Callable[[], dict[str, Any]], Claim | None]] = {
    "torchvision": (
        torchvision_training,
        Claim("resnet18", "torchvision", where="args.model of the checkpoint"),
    ),
    "timm": (
        timm_training,
        Claim("resnet26d", "timm", {"stem_width": 8}, "args.model of the checkpoint"),
    ),
    "torch's example": (
        lambda: {"arch": "resnet18", "state_dict": weights(), "best_acc1": 1.0},
        Claim("resnet18", "torchvision", where="arch of the checkpoint"),
    ),
    "lightning": (
        lambda: {"state_dict": prefixed("model."), "hyper_parameters": {"backbone": "resnet34", "lr": 1}},
        Claim("resnet34", where="hyper_parameters.backbone of the checkpoint"),
    ),
    "nothing": (lambda: {"state_dict": weights(), "args": {"lr": 1}}, None),
}


@pytest.mark.parametrize("case", CLAIMS.values(), ids=CLAIMS)
def test_what_the_program_says_is_claimed(case: tuple[Callable[[], object], Claim | None]) -> None:
    make, claim = case
    assert read(make()).claim == claim


Refusal = tuple[Callable[[], object], Reading, type[ResPruneError], str]
REFUSALS: dict[str, Refusal] = {
    "no average": (
        lambda: {"model": weights()},
        EMA,
        UsageError,
        r"no averaged weights .*found: model.; --weights model",
    ),
    "no kind": (weights, Reading(weights="best"), UsageError, "'best'; choose from auto, model, ema"),
    "no own": (
        lambda: {"model_ema": weights()},
        Reading(weights="model"),
        UsageError,
        r"found: model_ema.; --weights ema",
    ),
    "two tensors": (
        lambda: weights() | below("module.", other()),
        Reading(),
        ArchitectureError,
        r"conv1\.weight and module\.conv1\.weight are different weights",
    ),
    "no classifier": (
        lambda: {"embedder.embedder.convolution.weight": torch.ones(64, 3, 7, 7)},
        Reading(),
        CheckpointError,
        "without its classifier",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refusals_say_what_is_there(case: Refusal) -> None:
    make, how, kind, match = case
    with pytest.raises(kind, match=match) as caught:
        read(make(), how)
    assert caught.value.hint


def test_a_classifier_is_taken_only_where_nothing_else_is_beside() -> None:
    classifier = {name: t for name, t in weights().items() if name.startswith("linear.")}
    body = below("encoder.", {name: t for name, t in weights().items() if name not in classifier})
    assert "linear.weight" not in read(body | classifier | {"neck.weight": torch.ones(3, 3)}).weights
    own = read(below("encoder.", weights()) | {"fc.weight": torch.ones(3, 3)})
    assert_same(own.weights, weights())
