"""Look at what wheels hold: python .ci/wheel_holds.py WHEEL ..."""

from __future__ import annotations

import re
import sys
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

from terms import DATA, Terms, metadata_of, terms

# What a wheel may weigh beside the priors of photographs, and what each of those may.
LIMIT, PHOTOS = 25_000_000, 25_000_000


def check_files(sizes: dict[str, int]) -> str:
    """Nothing that belongs in a checkout alone, and no more than one should download."""
    research = [name for name in sizes if "experiments" in name]
    assert not research, f"not for the wheel: {research}"
    assert "jpmap_fast/napari.yaml" in sizes, "napari would not find its plug-in"
    assert "jpmap_fast/py.typed" in sizes, "type checkers would not read the annotations"
    photos = [name for name in sizes if Path(name).stem in ("photos", "photos-grey", "patches")]
    large = {name: sizes[name] for name in photos if sizes[name] >= PHOTOS}
    assert not large, f"expected less than {PHOTOS} bytes each: {large}"
    others = sum(sizes.values()) - sum(sizes[name] for name in photos)
    assert others < LIMIT, f"{others} bytes beside {photos}, expected less than {LIMIT}"
    return f"{sum(sizes.values()) / 1e6:.1f} MB, {others / 1e6:.1f} without {photos}"


def check_terms(names: list[str], metadata: Message, stated: dict[str, Terms]) -> str:
    """Every licence is named and its text is there; data has a card beside it."""
    texts = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert len(texts) == 1, f"expected one LICENSE of the package, got {texts}"
    folder = texts[0].removesuffix("LICENSE")
    unknown = [name for name in names if name.endswith(DATA) and name not in stated]
    assert not unknown, f"no licence in REUSE.toml: {unknown}"
    needed = {
        licence
        for name in names
        if name in stated
        for licence in re.split(r" (?:AND|OR|WITH) ", stated[name].licence)
    }
    told = set(metadata["License-Expression"].split(" AND "))
    assert told == needed, f"pyproject.toml: license names {told}, its files are under {needed}"
    absent = [one for one in needed if f"{folder}LICENSES/{one}.txt" not in names]
    assert not absent, f"no text of the licences {absent}"
    data = [name for name in names if name.endswith(DATA)]
    bare = [name for name in data if str(Path(name).with_suffix(".md")) not in names]
    assert data and not bare, f"no card beside {bare}"
    return f"{len(data)} files of weights and data with cards, under {', '.join(sorted(needed))}"


def main() -> None:
    """Tell what each wheel holds, or fail."""
    stated = terms()
    assert sys.argv[1:], "expected wheels"
    for path in sys.argv[1:]:
        with ZipFile(path) as wheel:
            sizes = {entry.filename: entry.compress_size for entry in wheel.infolist()}
        print(f"wheel: {check_files(sizes)}")
        print(f"wheel: {check_terms(list(sizes), metadata_of(Path(path)), stated)}")


if __name__ == "__main__":
    main()
