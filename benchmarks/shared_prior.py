"""One prior shared by eight threads, with operators, masks and batch sizes of every kind.

    python benchmarks/shared_prior.py [--requests 10000] [--output FILE]

Every answer is compared, bit by bit, with that of the same request made by one thread alone.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._files import write_json

THREADS, KINDS = 8, 40


def operator(index: int, generator: torch.Generator) -> jf.Operator:
    """Of five kinds in turn, each time another."""
    share, shape = 0.1 + 0.02 * index, (1, 28, 28)
    made = (
        lambda: jf.Inpainting((torch.rand(28, 28, generator=generator) < share).float()),
        jf.Denoising,
        lambda: jf.CompressedSensing.gaussian(40 + index, shape, generator),
        lambda: jf.Blur(jf.gaussian_kernel(1 + 0.02 * index)),
        lambda: jf.SuperResolution(2),
    )
    return made[index % 5]()


def main() -> None:
    """Run the requests and print how many answers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior, digits = jf.load_prior("mnist"), jf.mnist_test_digits()[0]
    generator = torch.Generator().manual_seed(0)
    requests = []
    for index in range(KINDS):
        chosen, sigma = operator(index, generator), (0.05, 0.1, 0.3)[index % 3]
        clean = digits[index : index + (1, 2, 3, 5)[index % 4]]
        y = chosen.measure(clean, sigma, generator=generator)
        method = jf.JPMAP(starts=1, n2=1) if index % 2 else jf.JPMAP()
        requests.append((y, chosen, sigma, method))

    def answer(index: int) -> tuple[Tensor, ...]:
        y, chosen, sigma, method = requests[index]
        result = jf.restore(y, chosen, prior, sigma, method=method)
        return result.x, result.z, result.objective

    alone = [answer(index) for index in range(KINDS)]
    order = random.Random(0)
    left = iter([order.randrange(KINDS) for _ in range(options.requests)])
    lock, different, errors = threading.Lock(), [], []

    def serve() -> None:
        while True:
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                same = all(map(torch.equal, answer(index), alone[index]))
            except Exception as error:
                errors.append(f"{requests[index][1]}: {error!r}")
                continue
            if not same:
                different.append(index)

    begin = time.perf_counter()
    threads = [threading.Thread(target=serve) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {
        "requests": options.requests,
        "threads": THREADS,
        "other_bits": len(different),
        "errors": errors,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(json.dumps(found, indent=1))
    if options.output is not None:
        write_json(options.output, found, indent=1)


if __name__ == "__main__":
    main()
