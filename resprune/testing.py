"""For tests of models: `assert_equivalent` says in figures how far two networks are from each other.

def test_the_export_is_the_network() -> None:
    assert_equivalent("runs/best.pth", "export/net.onnx")

def test_the_pruned_network_is_as_good() -> None:
    assert_equivalent(original, pruned, "data/cifar10", max_drop=0.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resprune import agreement, comparing, gate
from resprune.chain import ResidualChain, seeded_images
from resprune.checks import full_float32
from resprune.data import TEST_FIRST, open_data
from resprune.errors import UsageError
from resprune.gate import Rule
from resprune.records import Likeness
from resprune.running import Network, OnnxNetwork

TOLERANCE = 1e-4
"""Of the largest logit: above what another order of summation does in float32, below what changes a network."""
IMAGES = 64
"""How many seeded inputs are used where no data is given."""

Model = str | Path | nn.Module | ResidualChain | OnnxNetwork
Images = Tensor | Iterable[Tensor | tuple[Tensor, Tensor | None]]
"""Network input (n, c, h, w), or batches of it, each alone or with class indices (n,)."""


def assert_equivalent(
    a: Model,
    b: Model,
    data: str | Path | Images | None = None,
    *,
    max_drop: float | None = None,
    tolerance: float | None = None,
    confidence: float = 0.95,
    strict: bool = False,
    seed: int = 0,
    **options: Any,
) -> None:
    """Assert that a network gives the same logits as another, or is as accurate, on the same images.

    Args:
        a: The reference: a path or name that `resprune.load` takes, an ONNX file, a chain, or any module.
        b: The network in question, likewise.
        data: A data spec, network input (n, c, h, w), or batches of it; by default seeded noise, and the demo's
            images for the demo. A spec, or none, needs a network that knows its preprocessing.
        max_drop: Points of accuracy that ``b`` may lose; needs labels. As in `resprune check`, a drop beyond it
            fails only where its whole confidence interval is beyond it.
        tolerance: Largest difference of two logits that is allowed, over the largest logit; no unit. By default
            `TOLERANCE` where ``max_drop`` is not given, else any.
        confidence: Of the interval.
        strict: Let the drop decide by itself, whatever its interval.
        seed: Of noise, and of a draw of images.
        options: Of `resprune.data.open_data`: split, samples, batch_size.

    Raises:
        AssertionError: where they are not equivalent; with all figures.
        ResPruneError: where they cannot be compared.
    """
    __tracebackhide__ = True  # pytest shows the line that called
    if tolerance is None and max_drop is None:
        tolerance = TOLERANCE
    first, second = _opened(a, b)
    with full_float32():
        like = _likeness(first, second, data, seed, options)
    failed = []
    if tolerance is not None and not like.max_rel_difference <= tolerance:
        failed.append(
            f"logits differ by up to {like.max_abs_difference:.3g}, {like.max_rel_difference:.3g} of the"
            f" largest; allowed {tolerance:g}"
        )
    if max_drop is not None:
        failed += _drop(like, max_drop, Rule(confidence, strict))
    if failed:
        raise AssertionError(_told(failed, like))


def _opened(*models: Model) -> Iterator[Network | nn.Module]:
    """Open what is given by path: all of it on one device, the CPU where ONNX Runtime takes part."""
    paths = [own for own in models if isinstance(own, str | Path)]
    mode = "onnxruntime" if any(isinstance(own, OnnxNetwork) for own in models) else "eager"
    device = comparing.common_device("auto", mode, *paths)
    for own in models:
        yield comparing.open_network(own, device=device) if isinstance(own, str | Path) else own


def _drop(like: Likeness, limit: float, rule: Rule) -> list[str]:
    """Return what is to be said of a drop that is too large, or nothing."""
    found = gate.max_drop(limit, like, rule)
    if found.measured is None or found.interval is None:
        raise UsageError(f"max_drop needs labels, and {found.detail}", hint="or give a tolerance instead")
    if found.verdict == "passed":
        return []
    ends = f"{found.interval.low:.2f} to {found.interval.high:.2f}"
    return [
        f"accuracy drops by {found.measured:.2f} points ({100 * rule.confidence:g} % interval {ends});"
        f" allowed {limit:g}; {found.detail}"
    ]


def _told(failed: list[str], like: Likeness) -> str:
    lines = [f"the networks are not equivalent on {like.samples:,} inputs", *failed]
    if like.first.accuracy is not None and like.second.accuracy is not None:
        lines.append(f"accuracy {100 * like.first.accuracy:.2f} % and {100 * like.second.accuracy:.2f} %")
    lines.append(f"same top class on {100 * like.agreement:.2f} %")
    where = ", ".join(f"{own.index} ({own.first}, {own.second})" for own in like.disagreements)
    if where:
        more = ", ..." if like.differing > len(like.disagreements) else ""
        lines.append(f"inputs with other top classes: {where}{more}")
    return "\n  ".join(lines)


def _likeness(
    first: Network | nn.Module,
    second: Network | nn.Module,
    data: str | Path | Images | None,
    seed: int,
    options: dict[str, Any],
) -> Likeness:
    if data is None or isinstance(data, str | Path):
        if not isinstance(first, nn.Module) and not isinstance(second, nn.Module):
            return comparing.compare(first, second, data, limit=5, seed=seed, **options).likeness
        batches = _input(first, second, data, seed, options)
    else:
        batches = _batches(data)
    with ExitStack() as stack:
        one, other = (stack.enter_context(_run(own)) for own in (first, second))
        return agreement.likeness(one, other, ((own, own, labels) for own, labels in batches), limit=5)


def _input(
    first: Network | nn.Module, second: Network | nn.Module, spec: Any, seed: int, options: dict[str, Any]
) -> Iterable[tuple[Tensor, Tensor | None]]:
    chain = next((own for own in (first, second) if isinstance(own, ResidualChain)), None)
    if chain is None:
        raise UsageError(
            "neither network says how images become its input",
            hint="give the input itself: data=images, or data=[(images, labels), ...]",
        )
    if spec is None:
        return _batches(seeded_images(chain.preprocessing, IMAGES, seed))
    return open_data(spec, chain.preprocessing, chain.classes, **{"order": TEST_FIRST, "seed": seed} | options)


def _batches(data: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    for batch in data.split(IMAGES) if isinstance(data, Tensor) else data:
        images, labels = (batch, None) if isinstance(batch, Tensor) else batch
        yield images, labels


@contextmanager
def _run(own: Network | nn.Module) -> Iterator[agreement.Network]:
    """Give a network as a function of images that are anywhere; a module is in eval mode meanwhile."""
    if isinstance(own, OnnxNetwork):
        yield own
        return
    network = own.network if isinstance(own, ResidualChain) else own
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield lambda images: own(images.to(device))
    finally:
        for module, mode in training:
            module.training = mode
