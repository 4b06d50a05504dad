"""What the commands share: how errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from jpmap_fast._messages import FieldError, in_255ths, one_line

FAILED_INPUTS = 1
BAD_USAGE = 2
# Of fields that have another one than their name.
_WORDS = {"inputs": "INPUT", "sampler": "--method"}


def fail(message: str, code: int = BAD_USAGE) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(f"Error: {one_line(message)}", err=True)
    raise typer.Exit(code)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Errors that a user can mend end the command with one line instead of a traceback."""
    try:
        yield
    except FieldError as error:
        fail(_in_flags(error))
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(one_line(error))


def flag(field: str) -> str:
    """The word of the command line for a field of a request."""
    return _WORDS.get(field, f"--{field.replace('_', '-')}")


def _in_flags(error: FieldError) -> str:
    """An error in the words and the units of the command line."""
    values = error.values
    if values.get("setting") == "sigma":
        values = {
            key: in_255ths(value) if isinstance(value, float) else value
            for key, value in values.items()
        }
    return error.told(flag, values)
