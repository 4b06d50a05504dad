"""Damage to bytes: what disks, networks and other programs do, and what an attacker would."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

Mutation = Callable[[bytes, random.Random], bytes]

# Values about which lengths, counts and offsets go wrong.
EDGES = [0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536]
EDGES += [2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
NUMBERS = [b"0", b"1", b"-1", b"2", b"3", b"17", b"255", b"256", b"65536", b"99999", b"2147483648"]
NUMBERS += [b"18446744073709551616", b"1e400", b"-1e-400", b"0.5", b"NaN", b"Infinity", b"1" * 5000]
TOKENS = [b"", b"null", b"true", b"[]", b"{}", b'""', b"[[[", b'"\\u0000"', b"'<f8'", b"'|O'"]
TOKENS += [b"'<c16'", b"'>u2'", b"'<U9'", b"F64", b"BF16", b"I8", b"BOOL", b"tanh", b"MLPVAE"]
TOKENS += [
    b"ConvVAE",
    b"plain",
    b"residual",
    b"True",
    b"\xff\xfe",
    b"\0",
    b"()",
    b"(0,)",
    b"[" * 3000,
]


def _place(content: bytes, rng: random.Random) -> int:
    # Headers are short and decide the most.
    end = len(content) if rng.random() < 0.5 else min(len(content), 64)
    return rng.randrange(max(1, end))


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits turned over."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if damaged:
            damaged[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def set_bytes(content: bytes, rng: random.Random) -> bytes:
    """A run of bytes of one value, or of any."""
    at, length = _place(content, rng), rng.choice([1, 1, 2, 4, 16])
    value = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80", b" ", rng.randbytes(1)]) * length
    return content[:at] + value + content[at + length :]


def truncate(content: bytes, rng: random.Random) -> bytes:
    """The beginning alone, sometimes all but a byte or two."""
    keep = rng.choice([_place(content, rng), max(0, len(content) - rng.randint(1, 9))])
    return content[:keep]


def remove(content: bytes, rng: random.Random) -> bytes:
    """A piece gone from the middle."""
    at = _place(content, rng)
    return content[:at] + content[at + rng.randint(1, 64) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A piece once more, or many times."""
    at = _place(content, rng)
    piece = content[at : at + rng.randint(1, 64)]
    return content[:at] + piece * rng.choice([2, 2, 3, 100]) + content[at + len(piece) :]


def insert(content: bytes, rng: random.Random) -> bytes:
    """Noise in between, or behind."""
    at = rng.choice([_place(content, rng), len(content)])
    return content[:at] + rng.randbytes(rng.randint(1, 40)) + content[at:]


def set_number(content: bytes, rng: random.Random) -> bytes:
    """A binary integer of 1 to 8 bytes, of either order, that lies about a length or a count."""
    size = rng.choice([1, 2, 4, 8])
    at = _place(content, rng)
    order = rng.choice(["<", ">"])
    form = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    (value,) = struct.unpack(order + form, content[at : at + size].ljust(size, b"\0"))
    changed = rng.choice([rng.choice(EDGES), value + rng.choice([-2, -1, 1, 2]), value * 2])
    new = struct.pack(order + form, changed % 2 ** (8 * size))
    return content[:at] + new + content[at + size :]


def set_digits(content: bytes, rng: random.Random) -> bytes:
    """A written number that is another."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:4096]))
    if not found:
        return set_number(content, rng)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS) + content[match.end() :]


def set_word(content: bytes, rng: random.Random) -> bytes:
    """A word, or a quoted one, that is another."""
    found = list(re.finditer(rb"\"[^\"]{0,40}\"|'[^']{0,20}'|[A-Za-z_]{3,}", content[:4096]))
    if not found:
        return insert(content, rng)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(TOKENS) + content[match.end() :]


MUTATIONS: list[Mutation] = [
    flip_bits,
    set_bytes,
    truncate,
    remove,
    repeat,
    insert,
    set_number,
    set_number,
    set_digits,
    set_word,
]


def splice(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return content[: _place(content, rng)] + other[_place(other, rng) :]


def mutated(content: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A file damaged in one to four ways, or spliced with another, or noise."""
    if rng.random() < 0.01:
        return rng.randbytes(rng.randint(0, 200))
    if rng.random() < 0.1:
        content = splice(content, rng.choice(seeds), rng)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = rng.choice(MUTATIONS)(content, rng)
    return content
