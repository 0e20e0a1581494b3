"""Networks that are known and cannot be read, and why: told from the names of their parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CONCATENATES = (
    "blocks hand their input on by concatenation, not by a sum: without one the shapes no longer fit"
)

REASONS: tuple[tuple[str, str, str], ...] = (
    ("VoVNet", r".*\.conv_concat\.", _CONCATENATES),
    (
        "a detector or a segmentation network",
        r"(rpn|roi_heads|decode_head|aux_classifier|fpn)\.",
        "resprune reads image classifiers",
    ),
    (
        "a vision transformer",
        r".*(blocks|layers|layer|resblocks)[._]\d+\..*attn?(ention)?\.|.*self_attention\.",
        "resprune reads convolutional residual networks",
    ),
    (
        "ConvNeXt",
        r"stages\.\d+\.blocks\.\d+\.conv_dw\.|features\.\d+\.\d+\.layer_scale",
        "between its stages a norm and a convolution stand outside every skip connection, so exits cannot run"
        " through skip connections alone",
    ),
    (
        "a network of inverted residual blocks",
        r"(.*\.)?(conv_pwl|_depthwise_conv|_project_conv)\.|features\.\d+\.(\d\.)?(conv|block)\.\d"
        r"|blocks\.\d+\.\d+\.(conv_dw|ghost1)",
        "blocks that change width or size have no skip connection, so exits cannot run through those alone",
    ),
    (
        "NFNet or a network with scaled residuals",
        r".*\.(skipinit_gain|gain)",
        "its skip connections carry a scaled activation, so a block without its branch is not the identity",
    ),
    ("DenseNet", r"features\.(dense)?block", _CONCATENATES),
    ("Inception", r"(Mixed_|inception|Conv2d_1a|features\.\d+\.branch)", _CONCATENATES),
    ("a cross-stage partial network", r".*\.(conv_transition|conv_transition_b)\.", _CONCATENATES),
    ("DLA", r"level\d\.(tree|root|project)", _CONCATENATES),
    ("a dual-path network", r".*\.c1x1_[abcw]", _CONCATENATES),
    ("SqueezeNet", r"features\.\d+\.(squeeze|expand)", _CONCATENATES),
    (
        "HRNet",
        r"stage\d\.\d\.(fuse_layers|branches)",
        "its branches of several resolutions exchange their states, so there is no chain of blocks",
    ),
    (
        "RepVGG or MobileOne",
        r".*(conv_kxk\.(0\.)?(conv|bn)|rbr_dense|rbr_reparam|reparam_conv)\.",
        "its blocks are sums of parallel convolutions without a skip connection",
    ),
    ("VGG, AlexNet or another plain chain", r"features\.\d+\.weight", "it has no skip connections"),
)
"""What it is, which names it has, why it cannot be read."""


def refusal(names: Iterable[str]) -> str | None:
    """Return what a network is and why its blocks cannot be removed, or None where the names are unknown."""
    names = list(names)
    for what, pattern, why in REASONS:
        if any(re.match(pattern, name) for name in names):
            return f"this is {what}: {why}"
    outside = [name for name in names if not re.search(r"\d\.", name)]
    if any(re.match(r"(layer|stages\.|s)\d", name) for name in names) and not _has_classifier(outside):
        return "a residual network without a classifier: exits need one"
    return None


def _has_classifier(names: list[str]) -> bool:
    return any(re.search(r"(fc|linear|classifier|head|logits|proj)", name) for name in names)
