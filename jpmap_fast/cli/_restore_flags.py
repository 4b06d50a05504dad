"""The flags of ``jpmap-fast restore``: its own, and those of the registered operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from jpmap_fast.cli._common import flag
from jpmap_fast.operators.registry import Option, all_options, operator_names, owners


def _input(text: str) -> str:
    """A path of this machine that is there, or a URL, which is looked at later."""
    if "://" not in text and not Path(text).exists():
        raise typer.BadParameter(f"Path '{text}' does not exist.")
    return text


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        parser=_input,
        help="Picture files and folders, here or by URLs such as s3://bucket/folder, or one .npz, "
        ".npy or IDX file. For compressed-sensing an .npz or .npy file with y [N, m], unless "
        "--simulate.",
    ),
]
OperatorName = Annotated[str, typer.Option(help="How the measurements were made.")]
Sigma = Annotated[
    str,
    typer.Option(
        help="Standard deviation of the noise, in 255ths: 10 is 10/255. Or auto, which "
        "estimates it of each picture.",
        metavar="NUMBER|auto",
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Folder for what is written; may be a URL.")
]
Simulate = Annotated[
    bool,
    typer.Option(
        "--simulate", help="INPUT are clean images: degrade them first, and report the PSNR."
    ),
]
Seed = Annotated[int, typer.Option(help="Of simulated degradations and random starts.")]
Prior = Annotated[
    str | None,
    typer.Option(
        help="Name of a bundled prior, a path, or hf://owner/name; by default mnist for grey "
        "pictures of 28 x 28 pixels, photos or photos-grey for others."
    ),
]
CodedPrior = Annotated[
    str, typer.Option(help="Name of a bundled prior with latent codes, a path, or hf://owner/name.")
]
Method = Annotated[
    str | None, typer.Option(help="See `jpmap-fast info`; by default that of the prior.")
]
ResidualName = Annotated[
    str,
    typer.Option(
        help="Model of how pictures differ from what the prior draws: white, or covariance, pixel "
        "or grey where the prior carries it."
    ),
]
Estimate = Annotated[
    str,
    typer.Option(
        help="map, the most probable picture, or mean, E[x | y] by draws, with --method amis, mala "
        "or smc; the prior needs latent codes."
    ),
]
Starts = Annotated[
    int | None, typer.Option(help="Starting points; the best end of each image is kept.")
]
Alpha = Annotated[
    float | None,
    typer.Option(help="For map-z: allowed distance of x to G(z), in grey levels."),
]
Key = Annotated[str | None, typer.Option(help="Name of the array in an .npz INPUT.")]
Background = Annotated[
    float, typer.Option(help="Grey level behind transparent pixels, 0 black to 1 white.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --output that was interrupted."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|HOST:PORT",
        help="Restore by workers on a Ray cluster: one of this run's own, the one that runs here, "
        "or one elsewhere. Needs the extra ray.",
    ),
]
Workers = Annotated[int | None, typer.Option(help="With --ray: processes that restore, 1.")]
WorkerCpus = Annotated[
    int | None, typer.Option(help="With --ray: processors and threads of each, 1.")
]
WorkerGpus = Annotated[
    float | None,
    typer.Option(help="With --ray: GPUs of each, or a share of one; 1 with --device cuda."),
]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Progress bar; by default on a terminal."),
]


def starts_settings(starts: int | None) -> dict[str, Any]:
    """The settings of a method that --starts gives."""
    if starts is None:
        return {}
    if starts < 1:
        raise ValueError(f"--starts: expected at least 1, got {starts}")
    return {"starts": starts}


class WithOperators:
    """A command that takes a flag for each option of the operators there are when it is parsed.

    Args:
        command: its parameters are the flags of its own. It gets the others by their names; those
            of an operator that are drawn come after --simulate, the rest after --output.
    """

    def __init__(self, command: Callable[..., None]) -> None:
        self._command = command
        self.__doc__, self.__name__ = command.__doc__, command.__name__
        self.__annotations__: dict[str, Any] = {}  # typer looks for more of them than are used

    def __call__(self, **given: Any) -> None:
        name = given.pop("operator")
        self._command(operator=getattr(name, "value", name), **given)

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self._command, eval_str=True).parameters.values()
        found = []
        for parameter in own:
            if parameter.name == "operator":
                names = Enum("OperatorName", {name: name for name in operator_names()})  # type: ignore[misc]
                (details,) = parameter.annotation.__metadata__
                parameter = parameter.replace(annotation=Annotated[names, details])
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            if parameter.name in ("output", "simulate"):
                drawn = parameter.name == "simulate"
                found += [_flag(o) for o in all_options() if bool(o.draws) == drawn]
        return inspect.Signature(found)


def _flag(option: Option) -> inspect.Parameter:
    """The parameter of the command for an option of an operator."""
    if option.draws:
        text = f"With --simulate: {option.help}, instead of {flag(option.draws)}."
    else:
        text = f"For {' and '.join(owners(option.name))}: {option.help}"
    details: dict[str, Any] = {"help": text, "metavar": option.metavar}
    if option.kind is Path:
        details |= {"exists": True, "dir_okay": False}
    kind: Any = option.kind if option.default is not None else option.kind | None
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[kind, typer.Option(flag(option.name), **details)],
    )
