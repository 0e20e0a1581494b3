"""Which children of timm's networks and blocks are stem, stages, head, branch, skip connection, activation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """Paths of a network class's parts; ``{}`` in the path of a stage counts from `first`.

    Where the stem's output can be negative, the first block's activation does something to it even behind
    an identity.
    """

    stem: str
    stage: str
    head: str
    first: int = 1
    stem_is_signed: bool = False


@dataclass(frozen=True)
class Block:
    """Names of a block class's parts, each in the order in which it runs.

    Attributes:
        branch: Children; what is None is left out.
        skip: The child that projects; the identity where it is `nn.Identity`, or None.
        activation: Empty for none.
        before_skip: Children that a projection shares with the branch, and an identity passes by.
        none_is_no_skip: Whether None means that the block has no skip connection at all.
    """

    branch: str
    skip: str
    activation: str
    before_skip: str = ""
    none_is_no_skip: bool = False


NETWORKS = {
    "resnet.ResNet": Network("conv1 bn1 act1 maxpool", "layer{}", "global_pool fc"),
    "resnetv2.ResNetV2": Network("stem", "stages.{}.blocks", "norm head", first=0),
    "regnet.RegNet": Network("stem", "s{}", "final_conv head"),
    "byobnet.ByobNet": Network("stem", "stages.{}", "final_conv head", first=0),
    "senet.SENet": Network("layer0 pool0", "layer{}", "global_pool last_linear"),
    "tresnet.TResNet": Network("body.s2d body.conv1", "body.layer{}", "head", stem_is_signed=True),
}
_SENET_BOTTLENECK = Block("conv1 bn1 relu conv2 bn2 relu conv3 bn3 se_module", "downsample", "relu")
BLOCKS = {
    "resnet.BasicBlock": Block("conv1 bn1 drop_block act1 aa conv2 bn2 se drop_path", "downsample", "act2"),
    "resnet.Bottleneck": Block(
        "conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3 se drop_path", "downsample", "act3"
    ),
    "sknet.SelectiveKernelBasic": Block("conv1 conv2 se drop_path", "downsample", "act"),
    "sknet.SelectiveKernelBottleneck": Block("conv1 conv2 conv3 se drop_path", "downsample", "act"),
    "resnest.ResNestBottleneck": Block(
        "conv1 bn1 act1 avd_first conv2 bn2 drop_block act2 avd_last conv3 bn3", "downsample", "act3"
    ),
    "senet.SEBottleneck": _SENET_BOTTLENECK,
    "senet.SEResNetBottleneck": _SENET_BOTTLENECK,
    "senet.SEResNeXtBottleneck": _SENET_BOTTLENECK,
    "senet.SEResNetBlock": Block("conv1 bn1 relu conv2 bn2 relu se_module", "downsample", "relu"),
    "tresnet.BasicBlock": Block("conv1 conv2 se drop_path", "downsample", "act"),
    "tresnet.Bottleneck": Block("conv1 conv2 se conv3 drop_path", "downsample", "act"),
    "regnet.Bottleneck": Block("conv1 conv2 se conv3 drop_path", "downsample", "act3", none_is_no_skip=True),
    "resnetv2.PreActBasic": Block("norm1 conv1 norm2 conv2 drop_path", "downsample", "", before_skip="norm1"),
    "resnetv2.PreActBottleneck": Block(
        "norm1 conv1 norm2 conv2 norm3 conv3 drop_path", "downsample", "", before_skip="norm1"
    ),
    "byobnet.BasicBlock": Block(
        "conv1_kxk attn conv2_kxk attn_last drop_path", "shortcut", "act", none_is_no_skip=True
    ),
    "byobnet.DarkBlock": Block(
        "conv1_1x1 attn conv2_kxk attn_last drop_path", "shortcut", "act", none_is_no_skip=True
    ),
    "byobnet.EdgeBlock": Block(
        "conv1_kxk attn conv2_1x1 attn_last drop_path", "shortcut", "act", none_is_no_skip=True
    ),
    "byobnet.SelfAttnBlock": Block(
        "conv1_1x1 conv2_kxk self_attn post_attn conv3_1x1 drop_path", "shortcut", "act", none_is_no_skip=True
    ),
    "byobnet.BottleneckBlock": Block(
        "conv1_1x1 conv2_kxk conv2b_kxk attn conv3_1x1 attn_last drop_path",
        "shortcut",
        "act",
        none_is_no_skip=True,
    ),
}
REFUSED_BLOCKS = {
    "regnet.PreBottleneck": "the skip connection starts behind the block's norm and activation, so without its"
    " branch the block is not the identity",
}
