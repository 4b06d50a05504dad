"""The files that a run writes for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jpmap_fast._messages import FieldError
from jpmap_fast.data.picture import with_channels
from jpmap_fast.data.writing import TIFF_SUFFIXES, answer_suffix
from jpmap_fast.jobs._places import full_name, is_same
from jpmap_fast.jobs._sources import Item

# What a file may turn out to hold: one picture that PNG can hold, or anything.
_ONE, _MORE = ("uint8",), ("uint8", "uint8")
_TYPES = {8: "uint8", 16: "uint16", 32: "float32"}


def as_stored(image: Tensor, item: Item) -> Tensor:
    """A grey image for a picture that was stored grey."""
    return torch.from_numpy(with_channels(image.cpu().numpy(), 1)) if item.grey else image


class Targets:
    """The file that answers each picture file, all of them different.

    A file keeps its name where its answer has its suffix; "photo.jpg" and "photo.png" in one folder
    become "photo_2.png" and "photo.png".

    Args:
        files: picture files that may be restored.
        kind: "png" or "tiff"; None for that of the file where it can hold the answer.
        bits: of a pixel, 8, 16 or 32; None for as many as the picture had.
    """

    def __init__(
        self,
        files: Sequence[Path],
        kind: str | None = None,
        bits: int | None = None,
    ) -> None:
        self._kind, self._bits = kind, bits
        self._names: dict[tuple[Path, str], str] = {}
        wanted = [(file, self.suffix(file, stored)) for stored in (_ONE, _MORE) for file in files]
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

    def of(self, file: Path, stored: Sequence[str]) -> str:
        """The name of what the restored pages of a file go to, by the types they were stored in."""
        return self._names[file, self.suffix(file, stored)]

    def written(self, stored: Sequence[str]) -> list[str]:
        """The types that pages are written in, by the types that they were stored in.

        Raises:
            ValueError: the format asked for cannot hold them.
        """
        types = self._types(stored)
        if self._kind == "png" and answer_suffix(".png", types) != ".png":
            values = {"got": f"{len(types)} pages" if len(types) > 1 else types[0]}
            raise FieldError(
                "{format}: expected one picture of at most 16 bits for png, got {got}; choose "
                "tiff, or {bits} 8 or 16 for one page",
                values,
            )
        return types

    def _types(self, stored: Sequence[str]) -> list[str]:
        return list(stored) if self._bits is None else [_TYPES[self._bits]] * len(stored)

    def suffix(self, file: Path, stored: Sequence[str]) -> str:
        """Of the answer to a file."""
        if self._kind is None:
            return answer_suffix(file.suffix, self._types(stored))
        own = TIFF_SUFFIXES if self._kind == "tiff" else (".png",)
        return file.suffix if file.suffix.lower() in own else own[0]

    def check_inputs(self, output: Path, inputs: Sequence[Path], resume: bool) -> None:
        """Raise ValueError where a picture would be written over in a folder of inputs.

        Args:
            output: folder that is written to.
            inputs: files and folders.
            resume: whether what is in the output may be of this run, unless it is an input.
        """
        folders = (path if path.is_dir() else path.parent for path in inputs)
        if not any(is_same(output, folder) for folder in folders):
            return
        own = {full_name(file) for file, _ in self._names} if resume else None
        for name in self._names.values():
            path = output / name
            if (own is None or full_name(path) in own) and path.exists():
                raise FieldError(
                    "{output}: {path} is in the folder of the inputs and would be overwritten; "
                    "choose another folder",
                    {"path": path},
                )
