"""What people elsewhere may ask of this machine: no file of it, and no more work than is fair."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import fields

from jpmap_fast._messages import FieldError, one_of
from jpmap_fast.algorithms import Progress
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import named_operator

# Of whole numbers among settings and options; starts multiply the work of an image.
MOST_STARTS, MOST_STEPS, MOST_OPTION = 64, 1000, 4096
# A kernel is as wide as four of these, and the picture grows by its square.
MOST_FACTOR = 64
# What is the machine's own affair. So are means, made of draws that nothing here bounds.
_OWN = ("inputs", "device", "chunk_size", "key", "output", "format", "bits", "resume", "estimate")


def within(seconds: float, told: Progress | None = None) -> Progress:
    """What ``restore`` calls as it goes on, which ends it when the time from now is over.

    Args:
        seconds: of the time.
        told: called before that.

    Raises:
        TimeoutError: when it is called later.
    """
    end = time.monotonic() + seconds

    def passed(done: int, total: int) -> None:
        if told is not None:
            told(done, total)
        if time.monotonic() > end:
            raise TimeoutError(f"expected to be done within {seconds:g} s, was not")

    return passed


def check_stranger(request: RestoreRequest, priors: Collection[str]) -> None:
    """Raise unless a request can be run for anybody: it names no file, and its work is bounded.

    What it is made of comes beside it. ``at_most`` bounds the pictures.

    Args:
        request: as it came.
        priors: names that may be asked for.

    Raises:
        ValueError: it names a file or another prior, says what is the machine's affair, or asks for
            too much.
    """
    defaults = {own.name: own.default for own in fields(RestoreRequest)}
    for name in _OWN:
        if getattr(request, name) != defaults[name]:
            raise FieldError(
                f"{{{name}}}: expected none, it is not asked for here, got {{got}}",
                {"got": getattr(request, name)},
            )
    if request.prior not in priors:
        raise FieldError(
            "{prior}: expected {names}, got {got!r}",
            {"names": one_of(priors), "got": request.prior},
        )
    for option in named_operator(request.operator).options:
        value = request.options.get(option.name)
        if value is None:
            continue
        if option.names_file(value):
            raise FieldError(
                f"{{{option.name}}}: expected "
                + ("a formula of moderate size, or " if option.formula else "")
                + "its file beside the request, got {got!r}",
                {"got": value},
            )
        most = MOST_FACTOR if option.name == "factor" else MOST_OPTION
        _check_count(option.name, value, most)
    for name, value in request.settings.items():
        _check_count(name, value, MOST_STARTS if name == "starts" else MOST_STEPS)


def _check_count(name: str, value: object, most: int) -> None:
    if type(value) is int and value > most:
        raise FieldError(
            f"{{{name}}}: expected at most {{most}} here, got {{got}}",
            {"most": most, "got": value},
        )
