"""What was measured of one network beside another: time, memory, outputs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles

from resprune.records.measured import DataSummary, Evaluation
from resprune.records.networks import NetworkSummary, Origin

Subject = NetworkSummary | Origin
"""A network that was measured; of an ONNX file only the origin is known."""


def quartiles(values: tuple[float, ...]) -> tuple[float, float]:
    """Return the bounds of the middle half, interpolated between values; of a single value that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


@dataclass(frozen=True)
class Ratio:
    """How many times as long one network takes as another: median over rounds, bounds of the middle half."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Times of one call on one batch, a sample for every round.

    Attributes:
        samples_ms: In the order of the rounds; milliseconds.
        batch_size: Images in the batch.
        threads: CPU threads that could be used.
        device: Such as ``cpu`` or ``cuda:0``.
    """

    samples_ms: tuple[float, ...]
    batch_size: int
    threads: int
    device: str

    @property
    def rounds(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Median of the samples."""
        return median(self.samples_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """Bounds of the samples' middle half."""
        return quartiles(self.samples_ms)

    @property
    def iqr_ms(self) -> float:
        """Interquartile range of the samples: the width of their middle half."""
        low, high = self.quartiles_ms
        return high - low

    @property
    def throughput(self) -> float:
        """Images a second at the median."""
        return 1000 * self.batch_size / self.median_ms

    def ratio_to(self, other: Latency) -> Ratio:
        """Return how many times as long this takes as another that was measured in the same rounds.

        A round's two calls follow each other, so what slows the machine down for a while slows both: the
        ratio is taken in every round, and only then the median.

        Raises:
            ValueError: where the rounds are not as many.
        """
        ratios = tuple(own / its for own, its in zip(self.samples_ms, other.samples_ms, strict=True))
        return Ratio(median(ratios), *quartiles(ratios))


@dataclass(frozen=True)
class Timing:
    """What `bench` measured of one network.

    Attributes:
        subject: The network.
        mode: How it was run: ``eager``, ``compiled`` or ``onnxruntime``.
        latency: Of one call.
        peak_bytes: Most memory that tensors take during a call, weights and input included; None where that
            is not known, as in ONNX Runtime.
    """

    subject: Subject
    mode: str
    latency: Latency
    peak_bytes: int | None


@dataclass(frozen=True)
class BenchOutcome:
    """What `bench` found; `ratio` is the time of the first over the time of the other.

    Attributes:
        first: The network in question.
        against: Measured in the same rounds.
        ratio: None without another network.
        shape: (c, h, w) of the input.
        channels_last: Whether the input's memory was laid out so.
    """

    first: Timing
    against: Timing | None
    ratio: Ratio | None
    shape: tuple[int, int, int]
    channels_last: bool


@dataclass(frozen=True)
class Disagreement:
    """An image on which two networks' top classes differ.

    Attributes:
        index: Of the image, from 0, in the order in which the images were read.
        image: Where it is; empty for seeded inputs.
        label: Its class, where that is known.
        first, second: The two networks' classes.
    """

    index: int
    image: str
    label: int | None
    first: int
    second: int


@dataclass(frozen=True)
class Outcomes:
    """On how many images both networks are right, one of them alone, neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def images(self) -> int:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True)
class Likeness:
    """How far two networks' outputs are the same on the same images.

    Attributes:
        samples: Number of images.
        agreement: Fraction of them with the same top class.
        max_abs_difference: Largest difference of two logits.
        max_rel_difference: The same over the largest logit of either network; no unit.
        divergence: Mean of KL(first || second) of the class probabilities; nats.
        loss_deviation: Standard deviation over images of the second's loss minus the first's; nats, None
            without labels or for a single image.
        first, second: Accuracy and loss of each.
        outcomes: None without labels.
        differing: Number of images with different top classes.
        disagreements: Images with different top classes, in order; the first of them where they are many.
    """

    samples: int
    agreement: float
    max_abs_difference: float
    max_rel_difference: float
    divergence: float
    loss_deviation: float | None
    first: Evaluation
    second: Evaluation
    outcomes: Outcomes | None
    differing: int
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        first, second: The networks.
        data: None where the inputs were seeded noise: then only the differences of the logits mean something.
        likeness: Of their outputs.
        class_names: Of the data, where it has names.
        limit: At most so many disagreements are listed.
    """

    first: Subject
    second: Subject
    data: DataSummary | None
    likeness: Likeness
    class_names: tuple[str, ...] | None
    limit: int
