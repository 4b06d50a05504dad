"""How a service stands many clients at once: nothing lost, nothing wrong, replicas killed or not.

Clients on this machine post requests of many kinds, each the next one as soon as the one before it
is answered, and compare every answer to the bit with what ``restore_picture`` gives. Three runs:

    calm      as it is
    killed    a replica is ended by SIGKILL every so many seconds
    crowded   there is room for fewer requests than clients; who is turned away asks again

    python benchmarks/service_load.py                  # 200 clients, 60 s, 2 replicas
    python benchmarks/service_load.py --clients 20 --seconds 5 --output /tmp/load.json
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from service_process import Case, cases, form, replicas, service
from timer import RESULTS, write

# Of all answers, those of an operator's kind as often as others, photographs and errors less.
RARE = {"photograph": 0.2, "damaged": 0.1, "of another size": 0.1}


class Load:
    """What clients see.

    Args:
        address: of the service.
        given: requests that are posted.
    """

    def __init__(self, address: str, given: list[Case]) -> None:
        self._address, self._cases = address, given
        self._forms = [form(case) for case in given]
        kinds = Counter(case.name for case in given)
        self._weights = [RARE.get(case.name, 1.0) / kinds[case.name] for case in given]
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.turned_away = 0

    async def client(self, session: Any, number: int, until: float) -> None:
        """One client, until the time is over; what it has posted it waits for."""
        choose = random.Random(number)
        while time.monotonic() < until:
            (index,) = choose.choices(range(len(self._cases)), self._weights)
            await self._one(session, index)

    async def _one(self, session: Any, index: int) -> None:
        """One request, posted again for as long as the service is full."""
        case, (body, kind) = self._cases[index], self._forms[index]
        begin = time.monotonic()
        while True:
            try:
                headers = {"content-type": kind}
                async with session.post(
                    f"{self._address}/restore", data=body, headers=headers
                ) as a:
                    status, answer = a.status, await a.read()
                    again = a.headers.get("retry-after")
            except Exception as error:
                self.lost.append(f"{case.name}: {type(error).__name__} {error}")
                return
            if status != 503 or again is None:
                break
            self.turned_away += 1
            await asyncio.sleep(float(again) * random.random())
        self.seconds.append(time.monotonic() - begin)
        self.statuses[status] += 1
        self.kinds[case.name] += 1
        if status != case.status or (case.body is not None and answer != case.body):
            self.wrong.append(f"{case.name}: {status} {answer[:80]!r}")


async def _kill(service_pid: int, every: float, until: float) -> int:
    """End one replica after the other by SIGKILL, as long as another one is there."""
    count = 0
    while time.monotonic() + every < until:
        await asyncio.sleep(every)
        found = await asyncio.to_thread(replicas, service_pid)
        if len(found) > 1:
            os.kill(random.choice(found), signal.SIGKILL)
            count += 1
    return count


async def _run(
    address: str, pid: int, given: list[Case], clients: int, seconds: float, every: float | None
) -> dict[str, Any]:
    import aiohttp

    load = Load(address, given)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begin = time.monotonic()
        until = begin + seconds
        work = [load.client(session, number, until) for number in range(clients)]
        killing = asyncio.create_task(_kill(pid, every, until)) if every else None
        await asyncio.gather(*work)
        took = time.monotonic() - begin
        killed = await killing if killing else 0
        async with session.get(f"{address}/metrics") as answer:
            counted = await answer.text()
    return _summary(load, took, clients, killed, counted)


def _summary(load: Load, took: float, clients: int, killed: int, counted: str) -> dict[str, Any]:
    ordered = sorted(load.seconds)
    quantiles = statistics.quantiles(ordered, n=100)
    together = _counter(counted, "jpmap_together_sum") / _counter(counted, "jpmap_together_count")
    return {
        "clients": clients,
        "seconds": took,
        "answers": len(ordered),
        "per_second": len(ordered) / took,
        "p50_ms": 1e3 * quantiles[49],
        "p95_ms": 1e3 * quantiles[94],
        "p99_ms": 1e3 * quantiles[98],
        "most_ms": 1e3 * ordered[-1],
        "lost": len(load.lost),
        "wrong": len(load.wrong),
        "turned_away": load.turned_away,
        "killed": killed,
        "retries": int(_counter(counted, "jpmap_retries_total")),
        "images_together": together,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "kinds": dict(sorted(load.kinds.items())),
        "examples": {"lost": load.lost[:5], "wrong": load.wrong[:5]},
    }


def _counter(text: str, name: str) -> float:
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def _table(runs: dict[str, Any]) -> dict[str, Any]:
    columns = {
        "clients": "clients",
        "answers": "answers",
        "per_second": "a second",
        "p50_ms": "median, ms",
        "p99_ms": "99%, ms",
        "lost": "lost",
        "wrong": "wrong",
        "turned_away": "turned away, answered later",
        "killed": "replicas killed",
        "retries": "requests sent again",
        "images_together": "images a batch",
    }
    rows = [
        [name, *(round(run[key]) if key.endswith("_ms") else run[key] for key in columns)]
        for name, run in runs.items()
    ]
    return {"columns": ["run", *columns.values()], "rows": rows}


def main() -> None:
    """Start a service for each run, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--every", type=float, default=15, help="seconds between two kills")
    parser.add_argument("--output", type=Path, default=RESULTS / "service_load_cpu.json")
    arguments = parser.parse_args()
    given = cases()
    common = ["--replicas", str(arguments.replicas)]
    crowded = max(1, arguments.clients // 8)
    runs = {}
    for name, flags, every in (
        ("calm", [], None),
        ("killed", [], arguments.every),
        ("crowded", ["--accepted", str(crowded)], None),
    ):
        with service(*common, *flags) as (address, pid):
            work = _run(address, pid, given, arguments.clients, arguments.seconds, every)
            runs[name] = asyncio.run(work)
        told = {key: runs[name][key] for key in ("answers", "per_second", "lost", "wrong")}
        print(name, told, runs[name]["statuses"], runs[name]["examples"])
    document = {
        "replicas": arguments.replicas,
        "every": arguments.every,
        "crowded": crowded,
        "cores": os.cpu_count(),
        "runs": runs,
        "table": _table(runs),
    }
    write(arguments.output, document, torch.device("cpu"))
    if any(run["lost"] or run["wrong"] for run in runs.values()):
        raise SystemExit("answers were lost or wrong")


if __name__ == "__main__":
    main()
