"""Two builds of the package beside each other: the same calls in turn, their medians and ratio.

    python -m pip install --no-build-isolation --no-deps --target OLD .   # in a checkout of the old
    python benchmarks/beside.py OLD NEW [--rounds 15] [--device cpu] [--output FILE]

OLD and NEW are folders that hold an installed ``jpmap_fast``. Each is imported by a process of its
own, and the two take turns case by case, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORKER = """
import json, os, sys, time
# The hook of an editable install goes before every folder.
sys.meta_path = [f for f in sys.meta_path if not type(f).__module__.startswith("_editable")]
import torch
import jpmap_fast as jf

assert jf.__file__.startswith(os.environ["PYTHONPATH"]), jf.__file__
device, clock = torch.device(sys.argv[1]), getattr(time, sys.argv[2])
clean, _ = jf.mnist_test_digits()
clean = clean.to(device)
prior = jf.load_prior("mnist", device=device)
g = torch.Generator().manual_seed(0)
mask = (torch.rand(28, 28, generator=g) < 0.2).float()
problems = {
    "denoising": (jf.Denoising(), 110 / 255),
    "inpainting": (jf.Inpainting(mask), 10 / 255),
    "compressed sensing": (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), 10 / 255),
    "deblurring": (jf.Blur(torch.ones(3, 3) / 9), 10 / 255),
}
calls = {}
for name, (operator, sigma) in problems.items():
    operator = operator.to(device)
    for batch in (16, 256):
        x = clean.repeat(-(-batch // len(clean)), 1, 1, 1)[:batch]
        y = operator.measure(x, sigma, generator=torch.Generator(device).manual_seed(1))
        def restore(y=y, operator=operator, sigma=sigma):
            jf.restore(y, operator, prior, sigma)
        calls[f"restore, {name}, batch {batch}"] = restore
        if batch == 16:
            # How long an image takes is its own matter: several of them, one at a time.
            def each(call, y=y):
                return lambda: [call(y[i : i + 1]) for i in range(len(y))]
            served = jf.Restorer(operator, prior, sigma, batch_size=1)
            calls[f"Restorer, {name}, 16 times 1"] = each(served)
            calls[f"restore, {name}, 16 times 1"] = each(
                lambda y, operator=operator, sigma=sigma: jf.restore(y, operator, prior, sigma)
            )
print(json.dumps([jf.build_info()["cpu_kernels"], list(calls)]), flush=True)
for line in sys.stdin:
    name, repeats = json.loads(line)
    seconds = []
    for _ in range(repeats):
        begin = clock()
        calls[name]()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - begin)
    print(json.dumps(sorted(seconds)[repeats // 2]), flush=True)
"""


class Build:
    """A process that imports the package from a folder and times its calls on request.

    Args:
        folder: holds an installed ``jpmap_fast``.
        device: "cpu" or "cuda".
        variables: of its environment, beside those of this process.
        clock: a function of ``time``.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        variables: Mapping[str, str] | None = None,
        clock: str = "perf_counter",
    ) -> None:
        # Nothing of the folder this is run from goes before the folder.
        own = {"PYTHONPATH": str(folder.resolve()), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, device, clock],
            env={**os.environ, **own, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kernels: str
        self.names: list[str]
        self.kernels, self.names = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the build ended with status {self._process.wait()}")
        return json.loads(line)

    def seconds(self, name: str, repeats: int) -> float:
        """Median of a few calls in a row."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, repeats]) + "\n")
        self._process.stdin.flush()
        return float(self._answer())


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def compare(old: Build, new: Build, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Both in turn, a row a case whose name holds ``only``; a line of each is printed."""
    rows = []
    for name in (name for name in new.names if name in old.names and only in name):
        repeats = 1 if name.endswith("256") else 3
        old.seconds(name, 1), new.seconds(name, 1)
        pairs = [(old.seconds(name, repeats), new.seconds(name, repeats)) for _ in range(rounds)]
        row = {
            "case": name,
            "old_seconds": median([a for a, _ in pairs]),
            "new_seconds": median([b for _, b in pairs]),
            "ratio": median([a / b for a, b in pairs]),
        }
        rows.append(row)
        print(
            f"{name:45s} {1e3 * row['old_seconds']:9.3f} -> {1e3 * row['new_seconds']:9.3f} ms, "
            f"ratio {row['ratio']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Time both builds, print a line a case and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    old, new = Build(options.old, options.device), Build(options.new, options.device)
    rows = compare(old, new, options.rounds, options.only)
    if options.output is not None:
        options.output.write_text(json.dumps({"device": options.device, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
