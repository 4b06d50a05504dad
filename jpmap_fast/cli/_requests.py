"""Requests of flags, and bars that move with a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jpmap_fast._messages import FieldError
from jpmap_fast._prepared import AUTO
from jpmap_fast.algorithms import Progress
from jpmap_fast.jobs import RestoreRequest, with_prior
from jpmap_fast.operators.registry import all_options, owners


def request_of(
    inputs: Sequence[str | Path],
    operator: str,
    sigma: str,
    output: str | Path,
    prior: str | None,
    options: dict[str, Any],
    **fields: Any,
) -> RestoreRequest:
    """The request of what was given, with the prior that its inputs are of where none was.

    Args:
        inputs, operator, output: as the flags have them.
        sigma: in 255ths, or "auto".
        prior: None where none was given.
        options: of all operators, by name.
        fields: the others, as the request has them.

    Raises:
        ValueError, TypeError, OSError: as ``RestoreRequest``.
    """
    request = RestoreRequest(
        inputs=tuple(map(str, inputs)),
        operator=operator,
        sigma=_of_255ths(sigma),
        options=_given(operator, options),
        output=str(output),
        prior=RestoreRequest.prior if prior is None else prior,
        **fields,
    )
    return with_prior(request) if prior is None else request


def _of_255ths(text: str) -> float | str:
    """The noise level in the units of the library."""
    if text == AUTO:
        return text
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not (math.isfinite(sigma) and sigma > 0):
        raise FieldError(
            "{sigma}: expected a number > 0, in 255ths, or auto, got {got}", {"got": text}
        )
    return sigma / 255


def _given(operator: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, a default of another operator's being none."""
    defaults = {option.name: option.default for option in all_options()}
    return {
        name: value
        for name, value in given.items()
        if value is not None and (value != defaults[name] or operator in owners(name))
    }


@contextmanager
def bars(doing: str, shown: bool) -> Iterator[tuple[Progress, Progress]]:
    """What moves a progress bar over files, and one over the work on those at hand."""
    from tqdm.auto import tqdm

    def moving(bar: Any) -> Progress:
        def tell(done: int, total: int) -> None:
            if done < bar.n:  # other files
                bar.reset()
            bar.total = total
            bar.update(done - bar.n)

        return tell

    with (
        tqdm(desc=doing, unit="file", disable=not shown) as files,
        tqdm(desc="at hand", unit="pass", disable=not shown, leave=False) as passes,
    ):
        yield moving(files), moving(passes)
