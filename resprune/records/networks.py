"""What is known of a network: its architecture, where it came from, how images become its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WHOLE = "b"
"""Letter of a block with its residual branch in `Architecture.stages`."""
BARE = "s"
"""Letter of a block of which only the skip step is left."""
GONE = "-"
"""Letter of a block that left nothing behind, in networks whose blocks cannot be counted anew."""


@dataclass(frozen=True)
class Architecture:
    """What a family needs to build a network of its own, and nothing of its weights.

    Attributes:
        family: Name of the adapter in `resprune.families`.
        name: The field's name for it, such as ``resnet50``.
        stages: One string a stage, one letter a block: `WHOLE` or `BARE`. A removed block whose skip
            step does nothing leaves no letter, so a stage may be empty; where the family builds
            networks of a fixed depth only, it leaves the letter `GONE`.
        options: The family's own constructor arguments, JSON values only.
    """

    family: str
    name: str
    stages: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """Number of blocks that have a residual branch."""
        return sum(stage.count(WHOLE) for stage in self.stages)

    @property
    def is_stock(self) -> bool:
        """Whether every stage is a plain run of one or more whole blocks."""
        return all(stage and set(stage) == {WHOLE} for stage in self.stages)

    def letters(self) -> Iterator[tuple[int, int, str]]:
        """Yield ``(stage, position, letter)`` for every block, in the network's order."""
        for stage, letters in enumerate(self.stages):
            for position, letter in enumerate(letters):
                yield stage, position, letter

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return {
            "family": self.family,
            "name": self.name,
            "stages": list(self.stages),
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: when the object has another form.
        """
        stages = data["stages"]
        if not isinstance(stages, list) or not all(
            isinstance(stage, str) and set(stage) <= {WHOLE, BARE, GONE} for stage in stages
        ):
            raise ValueError(f"stages is no list of strings of {WHOLE}, {BARE} and {GONE}: {stages!r}")
        return cls(str(data["family"]), str(data["name"]), tuple(stages), dict(data["options"]))


@dataclass(frozen=True)
class Assumption:
    """A choice that names and shapes leave open, and that changes what the network computes.

    Attributes:
        name: What is chosen, such as ``stride``, or ``arch`` for the architecture as a whole.
        value: What was taken.
        others: What would load just as well.
        meaning: The choice in words.
        given: Whether the user or the checkpoint's metadata chose the value.
    """

    name: str
    value: str
    others: tuple[str, ...]
    meaning: str
    given: bool = False

    def flag(self, value: str) -> str:
        """Return what the command line takes for one of the values."""
        return f"--arch {value}" if self.name == "arch" else f"--assume {self.name}={value}"


@dataclass(frozen=True)
class Variants:
    """Networks that a family covers, for the documentation.

    Attributes:
        group: What they are.
        names: As the library or the authors name them.
        loads_in: Libraries whose own classes hold a pruned network while every stage keeps a block.
        refused: Why they are not read, where they are recognised and refused.
    """

    group: str
    names: tuple[str, ...]
    loads_in: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Claim:
    """What a checkpoint's own metadata says its network is.

    Attributes:
        name: Such as ``resnet50d``, as the library that wrote it names it.
        library: ``timm``, ``torchvision``, or empty where it is not said.
        arguments: Of the library's constructor; JSON values only.
        where: Which part of the checkpoint says so, for the user to judge.
    """

    name: str
    library: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Reading:
    """How a checkpoint is to be read.

    Attributes:
        weights: Which of several networks in one file: ``model``, ``ema``, or ``auto`` for the model's
            own weights, and the averaged ones where there are no others.
        inert: Replace classes that the file asks for by stubs that do nothing.
        unsafe_pickle: Run the file's code.
        numbers: Off: names and shapes only, on the meta device, where the format allows it.
    """

    weights: str = "auto"
    inert: bool = False
    unsafe_pickle: bool = False
    numbers: bool = True


READ_SAFELY = Reading()
"""Nothing is run, nothing is replaced."""


@dataclass(frozen=True)
class Wish:
    """What the user says of a network: its architecture's name, and values of assumptions."""

    arch: str | None = None
    assume: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the network's input.

    Attributes:
        channels, height, width: Size of the network's input; pixels.
        resize: Length that the shorter side is scaled to before the centre crop, in pixels, or None
            where images must have the input's size already.
        mean, std: Per channel, in units of the [0, 1] pixel range.
        interpolation: Pillow's name of the filter used by `resize`.
        source: Where these figures come from, for the user to judge.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    source: str = "assumed"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "interpolation": self.interpolation,
        }

    def changed(
        self,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        input_size: int | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
    ) -> Preprocessing:
        """Return the recipe with what the user gives in its place; checked as a file's is.

        Raises:
            ValueError: where that is no recipe.
        """
        given: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "interpolation": interpolation}
        if input_size is not None:
            given |= {"height": input_size, "width": input_size}
            if resize is None and self.resize is not None:
                given["resize"] = round(self.resize * input_size / self.height)
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return self
        words = ", ".join("size" if name == "height" else name for name in given if name != "width")
        return self.from_json(self.to_json() | given, source=f"{words} given; else {self.source}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> Preprocessing:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: when the object has another form.
        """
        recipe = cls(
            channels=int(data["channels"]),
            height=int(data["height"]),
            width=int(data["width"]),
            mean=tuple(float(value) for value in data["mean"]),
            std=tuple(float(value) for value in data["std"]),
            resize=None if data["resize"] is None else int(data["resize"]),
            interpolation=str(data["interpolation"]),
            source=source,
        )
        sizes = (recipe.channels, recipe.height, recipe.width, recipe.resize or 1)
        if min(sizes) < 1:
            raise ValueError(f"channels, height, width and resize must be at least 1, got {sizes}")
        if not len(recipe.mean) == len(recipe.std) == recipe.channels:
            told = f"means {recipe.mean} and deviations {recipe.std}"
            raise ValueError(f"{told}, but as many as channels ({recipe.channels}) are needed")
        if not all(0 < value < float("inf") for value in recipe.std):
            raise ValueError(f"the deviations are not all positive: {recipe.std}")
        if recipe.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
            raise ValueError(f"unknown interpolation {recipe.interpolation!r}")
        return recipe


@dataclass(frozen=True)
class Origin:
    """Where a network came from.

    Attributes:
        path: As the user named it.
        sha256: Of the weights file, hexadecimal; empty where none was read.
        format: Such as ``torch zip`` or ``safetensors``.
        notes: What was unwrapped, stripped or dropped on the way, for the user to read.
        assumptions: What names and shapes do not say and was taken to be so.
    """

    path: str
    sha256: str
    format: str
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True)
class NetworkSummary:
    """The identity of a checkpoint in every report; `macs` are for one image."""

    origin: Origin
    architecture: Architecture
    blocks: int
    parameters: int
    macs: int
