"""The options that say how a checkpoint is opened, given to every command that opens one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Annotated, Any

import typer

from resprune.errors import UsageError
from resprune.records import Reading


@dataclass(frozen=True)
class Open:
    """Opens the checkpoint of the command line, and others by the same options.

    Attributes:
        checkpoint: As the user named it.
        options: Of `resprune.load`.
        reading: Likewise.
    """

    checkpoint: str
    options: Mapping[str, Any]
    reading: Reading

    def __call__(
        self,
        *,
        numbers: bool = True,
        source: str | None = None,
        opener: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return the chain.

        Args:
            numbers: See `Reading`.
            source: Another checkpoint.
            opener: Stands in for `resprune.load`.
            options: Of it.
        """
        from resprune import pipeline

        how = replace(self.reading, numbers=numbers)
        name = self.checkpoint if source is None else source
        return (opener or pipeline.load)(name, reading=how, **self.options, **options)


def _opening(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="Checkpoint file or folder, torchvision/NAME, timm/NAME, or demo.",
            show_default=False,
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Architecture, such as timm/resnetaa50.", show_default=False),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What the shapes do not tell, such as stride=1x1; inspect lists it.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="WHICH", help="auto, model or ema, where the file holds several.")
    ] = "auto",
    inert: Annotated[
        bool, typer.Option("--inert", help="Put do-nothing stubs in the place of classes the file asks for.")
    ] = False,
    unsafe_pickle: Annotated[
        bool,
        typer.Option(
            "--unsafe-pickle",
            help="RUN THE CODE IN THE FILE, with all your rights. Only for files you would execute.",
        ),
    ] = False,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Mean of the inputs, of the [0, 1] range.", show_default=False),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Deviation of the inputs.", show_default=False)
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the inputs.", show_default=False)
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Shorter side before the centre crop.", show_default=False),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="NAME", help="bilinear, bicubic, ...", show_default=False)
    ] = None,
) -> Open:
    if weights not in ("auto", "model", "ema"):
        raise UsageError(f"--weights {weights} is none of auto, model, ema", hint="leave it out for auto")
    reading = Reading(weights, inert, unsafe_pickle)
    given = dict(_pair(text) for text in assume or [])
    recipe = {
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "input_size": input_size,
        "resize": resize,
        "interpolation": interpolation,
    }

    return Open(checkpoint, {"arch": arch, "assume": given, **recipe}, reading)


def opens_a_checkpoint(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_opening`; it gets ``opened``, a function that gives the `Open`."""
    shared = inspect.signature(_opening, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in shared}
        # Called inside the command, where its errors are told in one line.
        command(opened=lambda: _opening(**given), **arguments)

    checkpoint, *others = shared.values()
    mine = [parameter for name, parameter in own.items() if name != "opened"]
    ordered = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (checkpoint, *mine, *others)
    ]
    run.__signature__ = inspect.Signature(ordered)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    return run


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"--assume {text} is not NAME=VALUE", hint="for example --assume stride=1x1")
    return name, value


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} {text} is no list of numbers", hint=f"for example {flag} 0.5,0.5,0.5"
        ) from error
