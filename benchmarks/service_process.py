"""A service in a process of its own, requests to it, and the answers that are right.

The answers are made here by ``restore_picture``, one picture at a time and without the service.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from processes import named

import jpmap_fast as jf
from jpmap_fast.data import photograph
from jpmap_fast.jobs import RestoreRequest
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.serve.files import read_files, read_picture, written

ADDRESS = re.compile(r"The service is at (http://\S+);")
REPLICA = b"ray::ServeReplica:jpmap_fast"


@dataclass(frozen=True)
class Case:
    """A request as it is posted, and what must come back.

    Attributes:
        name: of its kind.
        request: fields of a ``RestoreRequest``.
        picture: content of a file.
        files: contents of others, by the options of the operator.
        status: of the right answer.
        body: of it; None where that is an error.
    """

    name: str
    request: dict[str, Any]
    picture: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None


@contextmanager
def service(*flags: str, log: Path | None = None) -> Iterator[tuple[str, int]]:
    """The address and the process id of ``jpmap-fast serve``, which ends with this."""
    command = [sys.executable, "-m", "jpmap_fast.cli", "serve", "--port", "0", *flags]
    with open(log or os.devnull, "wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            # Workers say things there as well.
            found = next(filter(None, map(ADDRESS.search, process.stdout)), None)
            if found is None:
                raise RuntimeError(f"the service did not start, see {log}")
            # Nobody reads on, and a full pipe would stop whoever writes.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield found[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def replicas(service_pid: int) -> list[int]:
    """Process ids of the replicas of a service on this machine."""
    return named(REPLICA, service_pid)


def cases(each: int = 8, priors: Sequence[str] = ("mnist", "fashion", "photos-grey")) -> list[Case]:
    """Requests of many kinds with the answers that are right, ``each`` of a kind.

    Args:
        each: pictures of a kind; a quarter as many photographs, which take longest.
        priors: those of kinds that are wanted.
    """
    torch.set_num_threads(1)  # as a replica has by default
    generator = torch.Generator().manual_seed(0)
    digits = [_png(digit) for digit in jf.mnist_test_digits(each)[0]]
    halves = [_png(digit[:, ::2, ::2]) for digit in jf.mnist_test_digits(each)[0]]
    masks = [_png((torch.rand(1, 28, 28, generator=generator) < 0.5).float()) for _ in range(2)]
    deep = BytesIO()
    np.save(deep, torch.rand(1, 28, 28, generator=generator).numpy())
    kinds: list[tuple[str, dict[str, Any], list[bytes], dict[str, bytes]]] = [
        ("inpainting", {"operator": "inpainting"}, digits, {"mask": masks[0]}),
        ("inpainting, another mask", {"operator": "inpainting"}, digits, {"mask": masks[1]}),
        ("denoising", {"operator": "denoising", "sigma": "auto"}, digits, {}),
        (
            "csgm",
            {"operator": "denoising", "method": "csgm", "settings": {"starts": 3}},
            digits,
            {},
        ),
        ("blur", {"operator": "blur", "options": {"kernel": "gaussian:1"}}, digits, {}),
        (
            "super-resolution",
            {"operator": "super-resolution", "options": {"factor": 2}},
            halves,
            {},
        ),
        ("an array", {"operator": "denoising", "sigma": 0.3}, [deep.getvalue()], {}),
        ("clothes", {"operator": "denoising", "prior": "fashion"}, digits, {}),
    ]
    if "photos-grey" in priors:
        grey = photograph()[0].mean(dim=0, keepdim=True)
        pieces = [_png(grey[:, y : y + 24, 40:72]) for y in range(0, 24 * max(1, each // 4), 24)]
        kinds.append(("photograph", {"operator": "denoising", "prior": "photos-grey"}, pieces, {}))
    found = []
    for name, fields, pictures, files in kinds:
        request = {"sigma": 0.1, "prior": "mnist", **fields}
        if request["prior"] in priors:
            bodies = _answers(request, pictures, files)
            found += [
                Case(name, request, picture, files, body=body)
                for picture, body in zip(pictures, bodies, strict=True)
            ]
    request = {"operator": "denoising", "sigma": 0.1, "prior": "mnist"}
    found.append(Case("damaged", request, digits[0][:50], status=422))
    found.append(Case("of another size", request, halves[0], status=422))
    return found


def _png(image: torch.Tensor) -> bytes:
    content = BytesIO()
    Image.fromarray((255 * image[0]).round().byte().numpy()).save(content, "png")
    return content.getvalue()


def _answers(
    request: dict[str, Any], pictures: Sequence[bytes], files: dict[str, bytes]
) -> list[bytes]:
    """The right answers, one after the other and without Restorers."""
    asked = RestoreRequest(device="cpu", **request)
    ready = Restoring(asked, arrays=read_files(asked.operator, files))
    bodies = []
    for picture in pictures:
        item = read_picture(picture, ready.shape, asked.background)
        (x,) = ready.batch([item]).result.x
        bodies.append(written(x, item)[0])
    return bodies


def form(case: Case, boundary: str = "a-boundary-of-the-form") -> tuple[bytes, str]:
    """The body of a request, and its type."""
    parts = []
    content = {"picture": case.picture, **case.files}
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    parts.append(f'{head}request"\r\n\r\n{json.dumps(case.request)}\r\n'.encode())
    for name, data in content.items():
        parts.append(f'{head}{name}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(
        parts
    ) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
