"""Uploads as the package reads them, and pictures as they are sent back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from jpmap_fast._messages import one_line
from jpmap_fast.data.writing import answer_suffix, encoded
from jpmap_fast.jobs._outputs import as_stored
from jpmap_fast.jobs._sources import Item, Shape, sources
from jpmap_fast.operators.registry import named_operator

MEDIA_TYPES = {".png": "image/png", ".tif": "image/tiff", ".npy": "application/octet-stream"}
_NUMPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"


@contextmanager
def _as_file(name: str, content: bytes) -> Iterator[Path]:
    """A file of a content for readers, which tell arrays by their suffix.

    Raises:
        ValueError: for errors within, without the folder that nobody knows.
    """
    suffix = ".npy" if content.startswith(_NUMPY) else ".npz" if content.startswith(_ZIP) else ""
    with TemporaryDirectory(prefix="jpmap-fast-") as folder:
        path = Path(folder) / f"{name}{suffix}"
        path.write_bytes(content)
        try:
            yield path
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(one_line(error).replace(f"{folder}/", "")) from error


def read_files(operator: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What an operator is made of, by its options, of the contents of files.

    Raises:
        ValueError, TypeError: no option that a file is for, or none that can be read.
    """
    options = {option.name: option for option in named_operator(operator).options}
    found = {}
    for name, content in files.items():
        option = options.get(name)
        if option is None or option.read is None:
            takes = ", ".join(n for n, o in options.items() if o.read is not None) or "none"
            raise ValueError(f"{name}: expected files of {operator}, {takes}; got {name!r}")
        with _as_file(name, content) as path:
            found[name] = option.read(str(path) if option.kind is str else path)
    return found


def read_picture(content: bytes, shape: Shape, background: float) -> Item:
    """The one picture of a file, or the measurements of one in an .npy file.

    Raises:
        ValueError, TypeError: there is none, or more than one.
    """
    with _as_file("picture", content) as path:
        found, _ = sources([path], shape, key=None, background=background)
        items = [item for source in found for item in source.read()]
    if len(items) != 1:
        raise ValueError(f"picture: expected one, got {len(items)} pages or images")
    return items[0]


def written(x: Tensor, item: Item) -> tuple[bytes, str]:
    """The file that answers a picture, in its type, and what kind it is of.

    Integers are clipped and rounded; an .npy file is answered by one of [C, H, W] float32.
    """
    if item.stored:
        suffix = answer_suffix("", [item.stored])
        return encoded(suffix, [as_stored(x, item)], [item.stored]), MEDIA_TYPES[suffix]
    content = BytesIO()
    np.save(content, x.cpu().numpy(), allow_pickle=False)
    return content.getvalue(), MEDIA_TYPES[".npy"]
