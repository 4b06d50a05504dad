"""One case: a damaged file, read under an alarm; and what is a finding."""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

from fuzzing.mutation import mutated
from fuzzing.targets import TARGETS, Target

# A read may take so long, in seconds, and so much memory, in KiB, on files of a few KB.
SECONDS, MEMORY = 5.0, 1 << 20
REFUSALS = (ValueError, TypeError, OSError)


class Hang(BaseException):
    """A read that took too long; no reader catches it by mistake."""


@dataclass(frozen=True)
class Finding:
    """A case that broke the promise.

    Attributes:
        target, seed, index: by which it is made again.
        what: happened.
        content: of the file.
    """

    target: str
    seed: int
    index: int
    what: str
    content: bytes


@cache
def _valid(seeds: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    """The files that a target starts from, written once and not for every case."""
    return seeds()


def damaged(target: Target, name: str, seed: int, index: int) -> bytes:
    """The file of a case, the same at every call."""
    rng = random.Random(f"{name} {seed} {index}")
    seeds = _valid(target.seeds)
    content = rng.choice(seeds)
    if target.inside and rng.random() < 0.6:
        content = rng.choice(target.inside)(content, rng)
        if rng.random() < 0.8:
            return content
    return mutated(content, seeds, rng)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises ``Hang`` inside once this process has worked for so long; in the main thread.

    What else the machine does is no hang.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def broken(target: Target, content: bytes, folder: Path) -> str | None:
    """What a read of ``content`` does that it may not; None if it keeps its promise.

    It returns what it promises, or raises ValueError, TypeError or OSError with the file's name.
    """
    file = folder / target.name
    file.write_bytes(content)
    path = folder if target.whole else file
    before = _peak()
    try:
        with alarm(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.check(target.read(path))
    except REFUSALS as error:
        if target.name not in str(error) and folder.name not in str(error):
            return f"an error without the file's name: {type(error).__name__}: {error}"
    except BaseException as error:  # of every other kind: it is the finding
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return f"{type(error).__name__} at {place}: {str(error)[:300]}"
    if _peak() - before > MEMORY:
        return f"{(_peak() - before) >> 10} MiB for a file of {len(content)} bytes"
    return None


def findings(name: str, seed: int, cases: range) -> Iterator[tuple[int, Finding | None]]:
    """Every case in turn, with what is wrong with it."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzzed-") as at:
        folder = Path(at)
        for beside, content in target.beside().items():
            (folder / beside).write_bytes(content)
        for index in cases:
            content = damaged(target, name, seed, index)
            what = broken(target, content, folder)
            yield index, None if what is None else Finding(name, seed, index, what, content)


def open_files() -> int:
    """File descriptors of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
