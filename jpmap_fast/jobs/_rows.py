"""Arrays that grow row by row on disk and become one .npz file in the end."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jpmap_fast._files import written_whole

Array = np.ndarray[Any, Any]


class Rows:
    """Fields of equally many rows, each in a file of its own below a folder.

    Nothing but the rows at hand is in memory. What lies beyond the rows that a caller knows of, of
    a run that was interrupted, is cut off.

    Args:
        folder: made where it is not there.
        count: rows known to be whole.

    Attributes:
        order: of the rows where they are read and written; None for that in which they came.
    """

    def __init__(self, folder: Path, count: int = 0) -> None:
        self._folder = folder
        self.count = count
        self.order: Sequence[int] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if count == 0:
            for path in folder.iterdir():
                path.unlink()
        for path in folder.glob("*.rows"):
            shape, dtype = self._layout(path)
            with path.open("rb+") as file:
                file.truncate(count * dtype.itemsize * int(np.prod(shape)))

    def append(self, fields: Mapping[str, Array]) -> None:
        """Add rows [n, ...] to each field; on disk when this returns."""
        (added,) = {len(rows) for rows in fields.values()}
        for name, rows in fields.items():
            path = self._folder / f"{name}.rows"
            if not path.exists():
                layout = {"shape": rows.shape[1:], "dtype": rows.dtype.str}
                path.with_suffix(".json").write_text(json.dumps(layout))
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(rows).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.count += added

    def read(self) -> dict[str, Array]:
        """All fields in memory: for those of a few numbers."""
        found = {}
        for rows in sorted(self._folder.glob("*.rows")):
            shape, dtype = self._layout(rows)
            array = np.fromfile(rows, dtype).reshape(self.count, *shape)
            found[rows.stem] = array if self.order is None else array[np.array(self.order)]
        return found

    def write(self, path: Path, more: Mapping[str, Array]) -> None:
        """All fields, and ``more`` beside them, as one .npz file; the rows are copied in pieces."""
        with written_whole(path) as part, zipfile.ZipFile(part, "w", allowZip64=True) as archive:
            for rows in sorted(self._folder.glob("*.rows")):
                shape, dtype = self._layout(rows)
                with archive.open(f"{rows.stem}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(
                        member,
                        {
                            "descr": dtype.str,
                            "fortran_order": False,
                            "shape": (self.count, *shape),
                        },
                    )
                    with rows.open("rb") as file:
                        if self.order is None:
                            shutil.copyfileobj(file, member, 1 << 20)
                        else:
                            size = dtype.itemsize * int(np.prod(shape))
                            member.writelines(_ordered(file, size, self.order))
            for name, array in more.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    def _layout(self, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
        layout = json.loads(path.with_suffix(".json").read_text())
        return tuple(layout["shape"]), np.dtype(layout["dtype"])


def _ordered(file: BinaryIO, size: int, order: Sequence[int]) -> Iterator[bytes]:
    """The rows of a file, each of so many bytes, in another order."""
    for row in order:
        file.seek(row * size)
        yield file.read(size)
