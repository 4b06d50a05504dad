"""Files and folders of this machine, and those elsewhere by their URLs, such as s3://bucket/folder.

One of this machine is a ``pathlib.Path``; one elsewhere is a ``UPath`` of universal_pathlib, which
has the same methods over the stores that fsspec knows. Both go by the name of ``Path``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jpmap_fast._messages import one_line

# What stores call the version of a file, the best first. None of these changes when it is read.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "generation", "mtime"),
    *("LastModified", "last_modified", "updated", "modify", "created"),
)


def place(text: str | Path) -> Path:
    """A file or folder by its path or its URL; file:// is this machine.

    Raises:
        ImportError: what its store needs is not installed. ValueError: no store is called so.
    """
    if "://" not in str(text):
        return Path(text)
    try:
        from upath import UPath
    except ImportError as error:
        raise ImportError(
            f"{text}: a URL needs universal_pathlib: pip install 'jpmap-fast[ray]', or pip install "
            f"universal_pathlib ({error})"
        ) from error
    with asked(text):
        found: Any = UPath(text)
        here = found.fs.protocol
    return Path(found.path) if "file" in here else found


def is_elsewhere(path: Path) -> bool:
    """Whether it is in a store that is asked by its URL."""
    return not isinstance(path, Path)


def full_name(path: Path) -> str:
    """The one name of a file or folder."""
    return str(path).rstrip("/") if is_elsewhere(path) else str(path.resolve())


def is_same(path: Path, other: Path) -> bool:
    """Whether two names are of one file or folder."""
    if is_elsewhere(path) and is_elsewhere(other):
        one, two = _of_store(path), _of_store(other)
        return bool(one[0] == two[0] and one[1] == two[1])
    return full_name(path) == full_name(other)


def look_again(path: Path) -> None:
    """Forget what was in a store when this process looked before."""
    if is_elsewhere(path):
        _of_store(path)[0].invalidate_cache()


def stamp(path: Path) -> list[Any]:
    """What tells whether a file is still the same.

    Raises:
        OSError: it is not there.
    """
    if not is_elsewhere(path):
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    store, name = _of_store(path)
    with asked(path):
        told = store.info(name)
        versions = [str(told[key]) for key in _VERSIONS if told.get(key)]
        return [told.get("size"), *(versions or [store.ukey(name)])]


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """A file of this machine with its name and content: itself, or a copy for as long as this."""
    if not is_elsewhere(path):
        yield path
        return
    store, name = _of_store(path)
    with TemporaryDirectory(prefix="jpmap-fast-") as folder:
        copy = Path(folder) / path.name
        with asked(path):
            store.get_file(name, str(copy))
        yield copy


def put(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy files of this machine into a folder elsewhere, each whole or not at all.

    Args:
        folder: elsewhere.
        files: by their names in it, which may be within folders.
    """
    store, base = _of_store(folder)
    names = {f"{base}/{name}": str(path) for name, path in files.items()}
    with asked(folder):
        if store.async_impl:  # a bucket: an object is there whole or not, and many go at a time
            store.put(list(names.values()), list(names))
            return
        for name, path in names.items():
            parent, _, last = name.rpartition("/")
            store.makedirs(parent, exist_ok=True)
            part = f"{parent}/.{last}.part"
            store.put_file(path, part)
            store.mv(part, name)


def remove(folder: Path) -> None:
    """A folder elsewhere is no more, if it was there."""
    store, base = _of_store(folder)
    with asked(folder):
        if store.exists(base):
            store.rm(base, recursive=True)


def _of_store(path: Any) -> tuple[Any, str]:
    """What holds a place elsewhere, and the name there."""
    return path.fs, str(path.path).rstrip("/")


@contextmanager
def asked(path: str | Path) -> Iterator[None]:
    """Errors of a store, each of which has kinds of its own, as OSError with the name.

    Those of this machine are as they are.
    """
    if isinstance(path, Path):
        yield
        return
    try:
        yield
    except (ValueError, TypeError, ImportError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file or folder") from error
    except Exception as error:
        text = one_line(error)
        raise OSError(text if str(path) in text else f"{path}: {text}") from error
