"""What ``jpmap-fast restore`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jpmap_fast._files import write_json as write_json
from jpmap_fast.data.writing import answer_suffix

# What a file may turn out to hold: one picture that PNG can hold, or anything.
_ONE, _MORE = ("uint8",), ("uint8", "uint8")


class Targets:
    """The file that answers each picture file, all of them different.

    A file keeps its name where its answer has its suffix; "photo.jpg" and "photo.png" in one folder
    become "photo_2.png" and "photo.png".

    Args:
        output: their folder.
        files: picture files that may be restored.
    """

    def __init__(self, output: Path, files: Sequence[Path]) -> None:
        self._output = output
        self._names: dict[tuple[Path, str], str] = {}
        wanted = [
            (file, answer_suffix(file.suffix, stored)) for stored in (_ONE, _MORE) for file in files
        ]
        taken: set[str] = set()
        # What is inside is not known yet: every name a file may get is taken, its own ones first.
        for file, suffix in sorted(wanted, key=lambda pair: pair[0].suffix != pair[1]):
            if (file, suffix) in self._names:
                continue
            name, count = f"{file.stem}{suffix}", 1
            while name.lower() in taken:
                count += 1
                name = f"{file.stem}_{count}{suffix}"
            taken.add(name.lower())
            self._names[file, suffix] = name

    def of(self, file: Path, stored: Sequence[str]) -> Path:
        """Where the restored pages of a file go, by the types that they were stored in."""
        return self._output / self._names[file, answer_suffix(file.suffix, stored)]

    def check_inputs(self, inputs: Sequence[Path]) -> None:
        """Raise ValueError where a picture would be written over in a folder of inputs."""
        folders = {(path if path.is_dir() else path.parent).resolve() for path in inputs}
        if self._output.resolve() not in folders:
            return
        for name in self._names.values():
            if (self._output / name).exists():
                raise ValueError(
                    f"--output: {self._output / name} is in the folder of the inputs and would be "
                    "overwritten; choose another folder"
                )
