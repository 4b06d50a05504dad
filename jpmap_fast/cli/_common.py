"""What the commands share: how errors are told, and where to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    import torch

FAILED_INPUTS = 1
BAD_USAGE = 2


def fail(message: str, code: int = BAD_USAGE) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(f"Error: {one_line(message)}", err=True)
    raise typer.Exit(code)


def one_line(message: object) -> str:
    """The text of a message or an exception, on one line."""
    text = " ".join(str(message).split())
    return text or type(message).__name__


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Errors that a user can mend end the command with one line instead of a traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(one_line(error))


def pick_device(name: str, kernels: bool = True) -> torch.device:
    """A device of its name; "auto" is CUDA where it can be used, else the CPU.

    Args:
        name: auto, cpu, cuda or cuda:1.
        kernels: whether the work needs the compiled kernels, as restoring does and training does
            not.

    Raises:
        ValueError: no such device, or one that this machine or this build cannot use.
    """
    import torch

    from jpmap_fast import build_info

    build, seen = build_info(), torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if seen and (build["cuda_loaded"] or not kernels) else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: expected auto, cpu or cuda, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected auto, cpu or cuda, got {name!r}")
    if device.type == "cuda":
        if not seen:
            raise ValueError("--device cuda: torch sees no CUDA device; use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"--device {name}: torch sees {torch.cuda.device_count()} CUDA device(s)"
            )
        if kernels and build["cuda"] and not build["cuda_loaded"]:
            raise ValueError(
                f"--device cuda: the CUDA kernels do not load ({build['cuda_problem']}); use "
                "--device cpu"
            )
        if kernels and not build["cuda"]:
            raise ValueError(
                "--device cuda: this build has no CUDA kernels; reinstall with JPMAP_CUDA=ON, "
                "or use --device cpu"
            )
    return device
