"""Two networks side by side: `bench` for time and memory, `compare` for what they say.

Either is a chain or an ONNX file. What cannot be compared is refused: another number of classes, another size
of input, images that are prepared in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resprune import agreement, latency, matching, pipeline
from resprune.arguments import check_count
from resprune.chain import ResidualChain, seeded_images
from resprune.checks import check_chain, check_mode, full_float32
from resprune.data import TEST_FIRST, Batches, open_data
from resprune.errors import UsageError
from resprune.memory import pass_over
from resprune.reading import with_demo
from resprune.records import (
    BenchOutcome,
    Comparison,
    DataSummary,
    Disagreement,
    Likeness,
    Preprocessing,
    Subject,
    Timing,
)
from resprune.running import Network, OnnxNetwork, Run, is_onnx, open_onnx, ready
from resprune.trajectory import OnBatch

LISTED = 1000
"""How many disagreements are listed at most."""
SEEDED_IMAGES = 64
"""On how many seeded inputs networks are compared where there is no data."""


def open_network(source: str | Path, *, device: str = "auto", **options: Any) -> Network:
    """Open an ONNX file in ONNX Runtime, or anything else as `resprune.load` does.

    Args:
        source: A path ending in ``.onnx``, or what `resprune.load` takes.
        device: ONNX Runtime is used on the CPU.
        options: Of `resprune.load`; an ONNX file needs none.

    Raises:
        UsageError: where an ONNX file is to run elsewhere, or ONNX Runtime is missing.
    """
    if not is_onnx(source):
        return pipeline.load(source, device=device, **options)
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"ONNX Runtime is used on the CPU only, not on {device!r}", where=source, hint="use --device cpu"
        )
    return open_onnx(source)


def common_device(device: str, mode: str, *sources: str | Path | None) -> str:
    """Return the CPU for ``auto`` where one of the networks runs in ONNX Runtime; both must share a device."""
    onnx = mode == "onnxruntime" or any(source is not None and is_onnx(source) for source in sources)
    return "cpu" if device == "auto" and onnx else device


def bench(
    network: Network,
    against: Network | None = None,
    *,
    mode: str = "eager",
    batch_size: int = 1,
    rounds: int | None = None,
    seconds: float = latency.SECONDS,
    channels_last: bool | None = None,
    seed: int = 0,
) -> BenchOutcome:
    """Measure latency, throughput and peak memory on seeded noise, of two networks in the same rounds.

    Args:
        network: In question.
        against: Another that takes the same input.
        mode: How chains are run: one of `resprune.running.MODES`; ONNX files run in ONNX Runtime.
        batch_size: Images in every call.
        rounds: How many calls of each; by default as many as ``seconds`` allow.
        seconds: Measure for so long, without warming up.
        channels_last: Lay the input's memory out so, or contiguously; by default so, as in every measurement of
            resprune's, but for ONNX Runtime.
        seed: Of the input.

    Raises:
        UsageError: where the two take different input, or are on different devices, or the mode does not
            work.
    """
    check_count("batch_size", batch_size)
    networks = [network] if against is None else [network, against]
    for own in networks:
        check_chain(own, OnnxNetwork)
    modes = ["onnxruntime" if isinstance(own, OnnxNetwork) else mode for own in networks]
    if channels_last is None:
        channels_last = "onnxruntime" not in modes
    elif channels_last and "onnxruntime" in modes:
        raise UsageError(
            "ONNX Runtime lays memory out as it likes", hint="leave --channels-last out, or use another mode"
        )
    if not any(isinstance(own, ResidualChain) for own in networks) and mode not in ("eager", "onnxruntime"):
        raise UsageError(f"an ONNX file cannot be run as {mode}", hint="leave --mode out")
    devices = {str(own.device) for own in networks} | ({"cpu"} if "onnxruntime" in modes else set())
    if len(devices) > 1:
        raise UsageError(f"the networks run on different devices ({', '.join(sorted(devices))})")
    shape = matching.common_shape(networks)
    matching.check_batch(networks, batch_size)
    images = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(seed))
    images = images.to(
        devices.pop(), memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    if "compiled" in modes:
        torch.compiler.reset()  # its limit counts all networks of a process; past it they run eagerly, untold
    calls = [_ready(own, how, images) for own, how in zip(networks, modes, strict=True)]
    measured = latency.measure(calls, images, rounds=rounds, seconds=seconds)
    timings = [
        Timing(subject(own), how, times, _peak(own, how, call, images))
        for own, how, call, times in zip(networks, modes, calls, measured, strict=True)
    ]
    if against is None:
        return BenchOutcome(timings[0], None, None, shape, channels_last)
    return BenchOutcome(timings[0], timings[1], measured[0].ratio_to(measured[1]), shape, channels_last)


@full_float32()
def compare(
    first: Network,
    second: Network,
    data: str | Path | None = None,
    *,
    limit: int = LISTED,
    seed: int = 0,
    progress: pipeline.Progress = pipeline.silent,
    **options: Any,
) -> Comparison:
    """Compare what two networks say of the same images.

    Every network gets images prepared with its own mean and deviation, all else must be the same; an ONNX file
    that does not say them gets what the other network gets. Without images both get the same seeded noise, and
    only the differences of their logits mean something.

    Args:
        first: The reference: divergences are from it.
        second: Another with the same classes.
        data: Images, labelled or not; the demo brings its own.
        limit: List at most so many images on which they disagree.
        seed: Of the draw of images, and of noise.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, samples, batch_size.

    Raises:
        UsageError: where the two cannot be compared.
    """
    networks = (first, second)
    for own in networks:
        check_chain(own, OnnxNetwork)
        if isinstance(own, ResidualChain):
            check_mode(own.network, own.origin.path)
    classes = matching.common_classes(first, second)
    shape = matching.common_shape(networks)
    recipes = [own.preprocessing for own in networks if own.preprocessing is not None]
    data = with_demo(data, *networks)
    if data is None:
        for name in ("split", "samples"):
            if options.get(name) is not None:
                raise UsageError(f"{name} is of images, and none are named", hint="name some with --data")
        matching.check_recipes(recipes, exactly=True)
        batches = _noise(shape, seed)
        with progress("compare", SEEDED_IMAGES) as on_batch:
            likeness = agreement.likeness(*_runs(networks), batches, limit=0, on_batch=on_batch)
        return Comparison(subject(first), subject(second), None, likeness, None, limit)
    matching.check_recipes(recipes, exactly=False)
    if not recipes:
        raise UsageError(
            "the ONNX file does not say how images become its input",
            where=first.origin.path,
            hint="compare it with a checkpoint or an export of resprune's, or leave --data out",
        )
    options = {"order": TEST_FIRST, "seed": seed} | options
    opened = [_batches(data, recipe, classes, **options) for recipe in (recipes[0], recipes[-1])]

    def compared(own: Batches, on_batch: OnBatch) -> Likeness:
        resized = [replace(batches, batch_size=own.batch_size) for batches in opened]
        return agreement.likeness(*_runs(networks), _pairs(resized, networks), limit=limit, on_batch=on_batch)

    likeness = pass_over(opened[0], compared, progress, "compare")
    found = _placed(likeness.disagreements, opened[0])
    return Comparison(
        first=subject(first),
        second=subject(second),
        data=_summary(opened),
        likeness=replace(likeness, disagreements=found),
        class_names=opened[0].source.label_names or _class_names(networks),
        limit=limit,
    )


def _batches(data: str | Path, recipe: Preprocessing, classes: int, **options: Any) -> Batches:
    return open_data(data, recipe, classes, **options)


def _pairs(opened: list[Batches], networks: tuple[Network, Network]) -> Iterator[agreement.Triple]:
    devices = [own.device for own in networks]
    same = matching.numbers_of(opened[0].preprocessing) == matching.numbers_of(opened[1].preprocessing)
    # Images are decoded twice only where they are prepared in two ways.
    pairs = ((own, own) for own in opened[0]) if same else zip(*opened, strict=True)
    for (own, labels), (other, _) in pairs:
        inputs = [
            images.to(device, memory_format=torch.channels_last)
            for images, device in zip((own, other), devices, strict=True)
        ]
        yield inputs[0], inputs[1], labels


def _noise(shape: tuple[int, int, int], seed: int) -> Iterator[agreement.Triple]:
    recipe = Preprocessing(*shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    for images in seeded_images(recipe, SEEDED_IMAGES, seed).split(8):
        yield images, images, None


def _runs(networks: tuple[Network, Network]) -> tuple[agreement.Network, agreement.Network]:
    def on_its_device(network: Network) -> agreement.Network:
        device = network.device
        return lambda images: network(images.to(device))

    return on_its_device(networks[0]), on_its_device(networks[1])


def _placed(found: tuple[Disagreement, ...], batches: Batches) -> tuple[Disagreement, ...]:
    """Say where the images are; they are not decoded again for that."""
    if not found:
        return found
    wanted = {own.index: own for own in found}
    items = enumerate(islice(batches.source, found[-1].index + 1))
    return tuple(replace(wanted[index], image=item.where) for index, item in items if index in wanted)


def _summary(opened: list[Batches]) -> DataSummary:
    """Two recipes have no common preprocessing to tell; each network's is its own."""
    own, other = (matching.numbers_of(batches.preprocessing) for batches in opened)
    summary = opened[0].summary
    return summary if own == other else replace(summary, preprocessing=None)


def _class_names(networks: tuple[Network, Network]) -> tuple[str, ...] | None:
    """Return the names of the logits that an ONNX file's metadata say."""
    return next((own.class_names for own in networks if isinstance(own, OnnxNetwork) and own.class_names), None)


def subject(network: Network) -> Subject:
    """Return what is known of a network."""
    return network.summary if isinstance(network, ResidualChain) else network.origin


def _ready(network: Network, mode: str, images: Tensor) -> Run:
    return ready(network, mode, images) if isinstance(network, ResidualChain) else network


def _peak(network: Network, mode: str, call: Run, images: Tensor) -> int | None:
    if isinstance(network, OnnxNetwork) or mode == "onnxruntime":
        return None  # its memory is its own, and not told
    return latency.peak_memory(network.network, call, images)
