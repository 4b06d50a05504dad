"""A service fuzzed with schemathesis against its own OpenAPI document, /openapi.json.

It looks for answers of 500 and above, for statuses, headers, types and bodies that the document
does not name, and for requests that break the document and are taken all the same. It runs twice:
with whatever forms it draws, whose pictures are bytes or one pixel, and with forms that get real
pictures, masks and matrices, and mostly fields that go together, which reach what is behind the
reader. One check is left out: that a request that follows the document is taken, since no schema
says what a picture is, or which mask fits it.

    python benchmarks/service_fuzz.py
    python benchmarks/service_fuzz.py --examples 100 --output /tmp/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from service_process import service
from timer import RESULTS, write

HOOKS = "service_fuzz_hooks"
# What is run: flags, whether forms get real pictures, and the checks that are left out.
RUNS: dict[str, tuple[list[str], bool, str]] = {
    "any form": ([], False, "positive_data_acceptance"),
    "real pictures": (
        ["--phases", "fuzzing", "--mode", "positive"],
        True,
        "positive_data_acceptance,negative_data_rejection",
    ),
}


def fuzzed(address: str, name: str, examples: int, seed: int) -> dict[str, Any]:
    """What schemathesis finds at an address.

    Args:
        address: of the service.
        name: of ``RUNS``.
        examples: at most, of each operation and phase.
        seed: of what it draws.
    """
    flags, pictures, left_out = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.jsonl"
        answers.touch()
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--no-color", *flags]
        command += ["--exclude-checks", left_out, "--continue-on-failure"]
        command += ["--generation-database", "none", "--request-timeout", "120"]
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": HOOKS,
            "JPMAP_FUZZ_ANSWERS": str(answers),
            "JPMAP_FUZZ_PICTURES": "1" if pictures else "",
            "PYTHONPATH": os.pathsep.join(places),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
        lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    print(done.stdout[-6000:], done.stderr[-2000:])
    statuses = Counter(f"{line['method']} {line['path']} {line['status']}" for line in lines)
    return {
        "requests": len(lines),
        "restored": statuses["POST /restore 200"],
        "refused": sum(400 <= line["status"] < 500 for line in lines),
        "server_errors": sum(line["status"] >= 500 for line in lines),
        "passed": done.returncode == 0,
        "statuses": dict(sorted(statuses.items())),
    }


def _table(runs: dict[str, Any]) -> dict[str, Any]:
    columns = {
        "requests": "requests",
        "restored": "restored",
        "refused": "refused",
        "server_errors": "answers of 500 and above",
    }
    rows = [
        [name, *(run[key] for key in columns), "none" if run["passed"] else "some"]
        for name, run in runs.items()
    ]
    return {"columns": ["forms", *columns.values(), "breaches of the document"], "rows": rows}


def main() -> None:
    """Fuzz a service of this machine, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "service_fuzz_cpu.json")
    arguments = parser.parse_args()
    with service("--megapixels", "0.1", "--seconds", "60") as (address, _):
        runs = {name: fuzzed(address, name, arguments.examples, arguments.seed) for name in RUNS}
    document = {"schemathesis": version("schemathesis"), "runs": runs, "table": _table(runs)}
    write(arguments.output, document, torch.device("cpu"))
    if not all(run["passed"] for run in runs.values()):
        raise SystemExit("schemathesis found something")


if __name__ == "__main__":
    main()
