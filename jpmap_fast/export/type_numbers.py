"""Types, layouts and memory formats in packages, by the numbers that the torch at hand reads.

A package writes such an argument of an operator by its number in the schema of ``torch.export``.
torch 2.11 reads it as the number in c10, which is another: int64 is taken for float16, float64 for
a half complex. Packages of 2.11 have those of c10 instead, and no other torch reads them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import serialize
from torch.torch_version import TorchVersion

# The first whose packages say in numbers of the schema what it reads.
_READS_SCHEMA = "2.12"
TABLES: dict[str, dict[Any, Any]] = {
    "dtype": serialize._TORCH_TO_SERIALIZE_DTYPE,
    "layout": serialize._TORCH_TO_SERIALIZE_LAYOUT,
    "memory_format": serialize._TORCH_TO_SERIALIZE_MEMORY_FORMAT,
}


@contextmanager
def as_torch_reads_them() -> Iterator[None]:
    """Inside, packages have the numbers that this torch reads: in this process, one at a time."""
    if TorchVersion(torch.__version__) >= TorchVersion(_READS_SCHEMA):
        yield
        return
    kept = {kind: dict(table) for kind, table in TABLES.items()}
    try:
        for kind, table in TABLES.items():
            table.update({value: c10_number(kind, value) for value in table})
        yield
    finally:
        for kind, table in TABLES.items():
            table.update(kept[kind])


def c10_number(kind: str, value: Any) -> int:
    """The number of ``value`` in c10, as torch's library tells it to compiled packages.

    Args:
        kind: "dtype", "layout" or "memory_format".
        value: such as ``torch.float64``.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    tell = getattr(library, f"aoti_torch_{kind}_{str(value).removeprefix('torch.')}")
    tell.restype = ctypes.c_int32
    return int(tell())
