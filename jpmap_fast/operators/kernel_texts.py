"""Blur kernels by a text: a formula, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from jpmap_fast._messages import FieldError
from jpmap_fast.data.marks import load_kernel
from jpmap_fast.operators.blur_kernels import box_kernel, gaussian_kernel, motion_kernel

FORMS = "gaussian:SIGMA, box:SIZE, motion:LENGTH:ANGLE or a file"
# Of super-resolution, whose factor they take their size from.
NAMED = ("box", "bicubic")
# Numbers of a formula that makes a kernel of moderate size.
MODERATE = 100


_MAKERS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "gaussian": (1, lambda sigma: gaussian_kernel(float(sigma))),
    "box": (1, lambda size: box_kernel(int(size))),
    "motion": (2, lambda length, angle: motion_kernel(float(length), float(angle))),
}


def is_formula(text: str) -> bool:
    """Whether ``read_kernel`` would read no file for a text, and make a kernel of moderate size.

    What is wrong with its numbers otherwise is for ``read_kernel`` to say.
    """
    name, *numbers = text.split(":")
    if name not in _MAKERS or not numbers:
        return text in NAMED
    try:
        # An angle is of any size; lengths come first.
        return not abs(float(numbers[0])) > MODERATE
    except ValueError:
        return True


def read_kernel(text: str) -> Tensor | str:
    """A kernel, float32: gaussian:2, box:5, motion:9:30, or the content of a file.

    An .npy or .npz file holds it as it is, [kh, kw] or more dimensions; a picture file gives its
    grey values over their sum. ``box`` and ``bicubic`` are left to ``SuperResolution``.

    Raises:
        ValueError, TypeError, OSError: not one of these, or the file holds no kernel.
    """
    name, *numbers = text.split(":")
    if name in _MAKERS and numbers:
        count, make = _MAKERS[name]
        if len(numbers) != count:
            raise _unknown(text)
        try:
            return make(*numbers)
        except ValueError as error:
            values = {"text": text, "error": str(error)}
            raise FieldError("{kernel} {text}: {error}", values) from error
    if text in NAMED:
        return text
    path = Path(text)
    if not path.is_file():
        raise _unknown(text)
    return load_kernel(path)


def _unknown(text: str) -> FieldError:
    return FieldError("{kernel}: expected {forms}, got {text!r}", {"forms": FORMS, "text": text})
