"""The folder that a run writes to: here, or elsewhere by way of a folder here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jpmap_fast.jobs._journal import FOLDER
from jpmap_fast.jobs._places import as_file, asked, is_elsewhere, look_again, put, remove
from jpmap_fast.jobs._summary import NAME

# Of the pieces in which what a run has finished goes elsewhere.
_SUFFIX, _DIGITS = ".npz", 8


class Folder:
    """A folder of this machine, where everything is written in its place at once.

    Attributes:
        place: what was asked for.
        path: of this machine, where files are written.
    """

    def __init__(self, place: Path) -> None:
        self.place = self.path = place

    def begin(self, resume: bool) -> None:
        """The folder is there, with what an interrupted run has left in it where one goes on."""
        self.path.mkdir(parents=True, exist_ok=True)

    def keep(self) -> None:
        """Everything that was written until now outlives this process."""

    def finish(self) -> None:
        """The same of everything, and nothing is left to go on with."""

    def close(self) -> None:
        """Nothing of it is needed any more in this process."""


class FolderElsewhere(Folder):
    """A folder in a store that cannot append to a file, as buckets cannot.

    Files are written in a folder of this machine and copied when they are whole. What tells an
    interrupted run from the next one only ever grows: each time the ends of all its files go into
    one new piece, after the pictures that it speaks of, and another run begins with all pieces put
    together again. A piece is there whole or not at all.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._temporary = TemporaryDirectory(prefix="jpmap-fast-")
        self.path = Path(self._temporary.name)
        self._pieces = 0
        self._kept: dict[str, int] = {}  # bytes of each file

    def begin(self, resume: bool) -> None:
        """As of ``Folder``; what is there is forgotten where a run begins anew."""
        unfinished = self.place / FOLDER
        if not resume:
            remove(unfinished)
            return
        with asked(self.place):
            look_again(self.place)
            finished = (self.place / NAME).exists()
            left = sorted(unfinished.iterdir()) if unfinished.exists() else []
        if finished:
            with as_file(self.place / NAME) as summary:
                (self.path / NAME).write_bytes(summary.read_bytes())
        for piece in (piece for piece in left if piece.suffix == _SUFFIX):
            with as_file(piece) as file, np.load(file) as ends:
                for name in ends.files:
                    path = self.path / FOLDER / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("ab") as whole:
                        whole.write(ends[name].tobytes())
            self._pieces += 1
        self._kept = {self._name(path): path.stat().st_size for path in self._growing()}

    def keep(self) -> None:
        """As of ``Folder``; pictures are no longer here then."""
        self._put_results()
        ends = {}
        for path in self._growing():
            name = self._name(path)
            with path.open("rb") as file:
                file.seek(self._kept.get(name, 0))
                ends[name] = np.frombuffer(file.read(), np.uint8)
            self._kept[name] = path.stat().st_size
        piece = self.path / f"{self._pieces:0{_DIGITS}d}{_SUFFIX}"
        np.savez(piece, allow_pickle=False, **{n: end for n, end in ends.items() if len(end)})
        put(self.place / FOLDER, {piece.name: piece})
        piece.unlink()
        self._pieces += 1

    def finish(self) -> None:
        """As of ``Folder``."""
        self._put_results()
        remove(self.place / FOLDER)

    def close(self) -> None:
        """As of ``Folder``."""
        self._temporary.cleanup()

    def _put_results(self) -> None:
        files = {
            path.relative_to(self.path).as_posix(): path
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.relative_to(self.path).parts[0] != FOLDER
        }
        # What says that a run has finished comes last.
        last = {name: files.pop(name) for name in (NAME,) if name in files}
        for some in filter(None, (files, last)):
            put(self.place, some)
            for path in some.values():
                path.unlink()

    def _growing(self) -> Iterator[Path]:
        found = (self.path / FOLDER).rglob("*")
        return (path for path in sorted(found) if path.is_file())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path / FOLDER).as_posix()


def folder_at(place: Path) -> Folder:
    """The folder at a place."""
    return FolderElsewhere(place) if is_elsewhere(place) else Folder(place)
