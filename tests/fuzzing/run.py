"""Read damaged files until something breaks: ``python -m fuzzing.run TARGET --cases N --seed S``.

From the folder ``tests``, with the package installed. TARGET is one of ``fuzzing.targets.TARGETS``
or "all". Cases run in a process of their own: one that dies or hangs for good is a finding, and the
next case goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from fuzzing.harness import SECONDS, Finding, damaged, findings
from fuzzing.targets import TARGETS

# Address space of the process that reads: far above what torch maps, far below a swapping machine.
ADDRESS_SPACE = 24 << 30


def work(pipe: Connection, name: str, seed: int, cases: range) -> None:
    """Run cases and report each; in the process that may die."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index, finding in findings(name, seed, cases):
        pipe.send((index, finding))
    pipe.close()


def guarded(name: str, seed: int, cases: range) -> Iterator[Finding | None]:
    """Every case, those that end the process included."""
    context = multiprocessing.get_context("spawn")
    while cases:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, name, seed, cases))
        process.start()
        theirs.close()
        patience = 120.0  # the first case waits for imports
        try:
            while cases:
                if not mine.poll(patience):
                    raise EOFError("hangs where no signal reaches it")
                index, finding = mine.recv()
                cases, patience = cases[1:], 4 * SECONDS
                yield finding
        except EOFError as error:
            process.kill()
            process.join()
            index = cases[0]
            what = str(error) or f"the process ended with {process.exitcode}"
            yield Finding(name, seed, index, what, damaged(TARGETS[name], name, seed, index))
            cases = cases[1:]
        process.join()


def main(arguments: list[str] | None = None) -> int:
    """The command; its status is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="fuzzing.run", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--keep", type=Path, help="folder for the files that broke something")
    parser.add_argument("--most", type=int, default=20, help="findings of a target, then the next")
    options = parser.parse_args(arguments)
    total = 0
    for name in TARGETS if options.target == "all" else [options.target]:
        found, done = 0, 0
        for finding in guarded(
            name, options.seed, range(options.first, options.first + options.cases)
        ):
            done += 1
            if finding is None:
                continue
            found += 1
            print(f"{name} --seed {finding.seed} --first {finding.index}: {finding.what}")
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                kept = options.keep / f"{name}-{finding.seed}-{finding.index}"
                kept.write_bytes(finding.content)
            if found >= options.most:
                break
        print(f"{name}: {done} cases, {found} findings", flush=True)
        total += found
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
