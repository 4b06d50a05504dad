"""Safetensors files of this package: a format's name in the header, tensors, nothing executable."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from jpmap_fast._hub import SUFFIX, downloaded, on_hub, only_weights


def holds_weights(path: str | Path) -> bool:
    """Whether it is a folder with safetensors files in it."""
    return Path(path).is_dir() and any(Path(path).glob(f"*{SUFFIX}"))


def weights_path(name: str | Path) -> Path:
    """The file that is meant by a path, a folder that holds one, or a name of the hub.

    Args:
        name: the path of a file, which need not be there; of a folder; or "hf://owner/name", see
            ``pinned_name``.

    Raises:
        FileNotFoundError: a folder or a repository without such a file.
        ValueError: several files to choose from. Others: as ``downloaded``.
    """
    if on_hub(name):
        return downloaded(str(name))
    path = Path(name)
    if path.is_dir():
        files = [file.name for file in path.iterdir() if file.is_file()]
        return path / only_weights(files, str(path), "give the path of one")
    return path


def read_weights(
    path: str | Path, expected: str, what: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file whose header says ``format`` = ``expected``.

    Args:
        path: of the file.
        expected: name of the format.
        what: the file holds, for the message about a foreign one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, truncated, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, it is damaged, truncated or of another kind "
            f"({error})"
        ) from error
    if header.get("format") != expected:
        raise ValueError(
            f"{path}: expected {what} written by jpmap_fast (header {expected!r}), got a foreign "
            f"safetensors file with header {header or 'none'}"
        )
    return header, tensors
