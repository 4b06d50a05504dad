"""Damage inside of what is checksummed or compressed: the outside is made right again."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

from fuzzing.mutation import MUTATIONS, set_digits, set_word

Inside = Callable[[bytes, random.Random], bytes]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One mutation."""
    return rng.choice(MUTATIONS)(content, rng)


def in_gzip(content: bytes, rng: random.Random) -> bytes:
    """What was compressed is damaged, the compression is not."""
    return gzip.compress(damaged(gzip.decompress(content), rng), mtime=0)


def in_zip(content: bytes, rng: random.Random) -> bytes:
    """A member is damaged, renamed, doubled or gone; its checksum says nothing of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    which = rng.randrange(len(members))
    # The pickle or the header decides, the numbers do not.
    if rng.random() < 0.7:
        likely = [i for i, (name, _) in enumerate(members) if name.endswith((".pkl", ".npy"))]
        which = rng.choice(likely or [which])
    name, inner = members[which]
    kind = rng.random()
    if kind < 0.8:
        members[which] = (name, damaged(inner, rng))
    elif kind < 0.87:
        members[which] = (rng.choice(["x", "../" + name, "", name.upper(), "a/b.npy"]), inner)
    elif kind < 0.94:
        del members[which]
    else:
        members.append((name + "2", damaged(inner, rng)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as new:
        for name, inner in members:
            new.writestr(name or "empty", inner)
    return out.getvalue()


def in_png(content: bytes, rng: random.Random) -> bytes:
    """A chunk is damaged, doubled, moved or gone; checksums and lengths fit again."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = rng.randrange(len(chunks))
    name, inner = chunks[which]
    kind = rng.random()
    if kind < 0.3 and name == b"IDAT":
        chunks[which] = (name, zlib.compress(damaged(zlib.decompress(inner), rng)))
    elif kind < 0.7:
        chunks[which] = (name, damaged(inner, rng))
    elif kind < 0.8:
        chunks.insert(rng.randrange(len(chunks)), chunks.pop(which))
    elif kind < 0.9:
        chunks.insert(which, (name, inner))
    else:
        other = rng.choice([b"tRNS", b"gAMA", b"PLTE", b"eXIf", b"acTL", b"fcTL", b"zTXt"])
        chunks.insert(rng.randint(1, len(chunks)), (other, rng.randbytes(rng.randint(0, 30))))
    out = content[:8]
    for name, inner in chunks:
        crc = struct.pack(">I", zlib.crc32(name + inner))
        out += struct.pack(">I", len(inner)) + name + inner + crc
    return out


def in_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The header says something else, and is as long as it says."""
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = content[8 : 8 + length], content[8 + length :]
    values = json.loads(header)
    kind = rng.random()
    if kind < 0.4 and "__metadata__" in values:
        # Texts in a text: the architecture.
        key = rng.choice(sorted(values["__metadata__"]))
        text = values["__metadata__"][key].encode()
        text = rng.choice([set_digits, set_word, damaged])(text, rng)
        values["__metadata__"][key] = text.decode("utf-8", "replace")
        header = json.dumps(values).encode()
    elif kind < 0.6:
        name = rng.choice([name for name in sorted(values) if name != "__metadata__"])
        field = rng.choice(["dtype", "shape", "data_offsets"])
        other = rng.choice([[0], [], [2**63], [-1], "F16", "I64", "BOOL", [0, 4], [4, 0], None])
        values[name][field] = other
        header = json.dumps(values).encode()
    elif kind < 0.8:
        header = rng.choice([set_digits, set_word, damaged])(header, rng)
    else:
        tensors = damaged(tensors, rng)
    return struct.pack("<Q", len(header)) + header + tensors


def in_json(content: bytes, rng: random.Random) -> bytes:
    """A value that is another, of another kind, or missing."""
    values = json.loads(content)
    key = rng.choice(sorted(values))
    others = [None, 0, -1, 1, 2**70, 0.5, "text", [], [0], [1, 2, 3, 4], {}, True, [2**40] * 3]
    others += [[-1, 8, 8], [1, 8, "8"], ["x"], float("nan")]
    if rng.random() < 0.8:
        values[key] = rng.choice(others)
    else:
        del values[key]
    return json.dumps(values).encode()
