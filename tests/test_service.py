"""The service as it runs, with Ray: right answers to many at once, also if replicas are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_process import Case, cases, form, replicas, service
from typer.testing import CliRunner

from jpmap_fast.cli import app

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def given() -> list[Case]:
    return cases(4, priors=("mnist",))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process of a service of two replicas."""
    pytest.importorskip("ray.serve", reason="needs Ray Serve, the extra serve")
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with service("--replicas", "2", "--prior", "mnist", "--tries", "8", log=log) as found:
        yield found


async def _posted(address: str, work: list[Case], meanwhile: Any = None) -> list[str]:
    """What is wrong with the answers to requests posted at once."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def one(case: Case) -> str:
            body, kind = form(case)
            headers = {"content-type": kind}
            async with session.post(f"{address}/restore", data=body, headers=headers) as answer:
                content = await answer.read()
            right = answer.status == case.status and case.body in (None, content)
            return "" if right else f"{case.name}: {answer.status} {content[:200]!r}"

        tasks = [asyncio.create_task(one(case)) for case in work]
        if meanwhile is not None:
            await meanwhile()
        return [wrong for wrong in await asyncio.gather(*tasks) if wrong]


async def _counted(address: str, name: str) -> float:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_every_answer_is_right_and_batches_form(running: tuple[str, int], given: Any) -> None:
    address, _ = running
    assert asyncio.run(_posted(address, given * 4)) == []
    images = asyncio.run(_counted(address, "jpmap_together_sum"))
    answers = asyncio.run(_counted(address, "jpmap_together_count"))
    assert images / answers > 1.2


@pytest.mark.parametrize("all_of_them", [False, True])
def test_killed_replicas_lose_nothing(
    running: tuple[str, int], given: list[Case], all_of_them: bool
) -> None:
    """Requests at work when a replica, or every one, is ended by SIGKILL are answered rightly."""
    address, pid = running
    there = replicas(pid)
    while len(there) < 2:  # those of the test before come back
        time.sleep(0.5)
        there = replicas(pid)
    before = asyncio.run(_counted(address, "jpmap_retries_total"))
    answered = asyncio.run(_counted(address, "jpmap_seconds_count"))

    async def kill() -> None:
        # Replicas have taken requests once some are answered: others before are Ray's to route.
        while await _counted(address, "jpmap_seconds_count") < answered + 20:
            await asyncio.sleep(0.005)
        assert await _counted(address, "jpmap_working") > 20
        for number in there if all_of_them else there[:1]:
            os.kill(number, signal.SIGKILL)

    slow = [case for case in given if case.name in ("csgm", "blur", "inpainting")]
    assert asyncio.run(_posted(address, slow * 16, kill)) == []
    assert asyncio.run(_counted(address, "jpmap_retries_total")) > before
    assert not set(there if all_of_them else there[:1]) & set(replicas(pid))


def test_what_was_accepted_is_answered_when_the_service_is_told_to_end(
    given: list[Case], tmp_path: Path
) -> None:
    pytest.importorskip("ray.serve", reason="needs Ray Serve, the extra serve")
    with service("--prior", "mnist", log=tmp_path / "log.txt") as (address, pid):

        async def end() -> None:
            while await _counted(address, "jpmap_working") < 20:
                await asyncio.sleep(0.005)
            os.kill(pid, signal.SIGTERM)

        work = [case for case in given if case.status == 200] * 4
        assert asyncio.run(_posted(address, work, end)) == []


def test_a_port_that_is_taken_is_told(running: tuple[str, int]) -> None:
    port = running[0].rpartition(":")[2]
    result = CliRunner().invoke(app, ["serve", "--port", port])
    assert result.exit_code == 2 and "in use" in result.stderr


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    result = CliRunner().invoke(app, ["serve", "--port", "0"])
    assert result.exit_code == 2
    assert "pip install 'jpmap-fast[serve]'" in result.stderr
