"""The front of the service without replicas or a network: what it takes, and its limits."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from asgi import ask
from service_process import Case, form

from jpmap_fast.serve import limits as limits_module
from jpmap_fast.serve.settings import ServiceSettings
from jpmap_fast.serve.wire import Answer, Job

pytest.importorskip("starlette", reason="needs starlette, of the extra serve")
pytest.importorskip("prometheus_client", reason="needs prometheus-client, of the extra serve")
pytest.importorskip("python_multipart", reason="needs python-multipart, of the extra serve")

from jpmap_fast.serve.front import front  # noqa: E402
from jpmap_fast.serve.metrics import Metrics  # noqa: E402
from jpmap_fast.serve.replicas import Retried  # noqa: E402

SETTINGS = ServiceSettings(priors=("mnist",), megabytes=1, accepted=3)
REQUEST = {"operator": "denoising", "sigma": 0.1, "prior": "mnist"}
CASE = Case("denoising", REQUEST, b"a picture")


class _Restore:
    """Restores nothing, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.let = asyncio.Event()
        self.let.set()

    async def __call__(self, job: Job) -> Answer:
        self.jobs.append(job)
        await self.let.wait()
        return Answer(200, b"restored", "image/png", {"status": "converged"}, together=2)


async def _yes() -> bool:
    return True


def _front(
    settings: ServiceSettings = SETTINGS, restore: Any = None, is_ready: Any = _yes
) -> tuple[Any, Any]:
    restore = restore or _Restore()
    return front(settings, restore, is_ready, Metrics()), restore


async def _post(app: Any, case: Case, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body, kind = form(case)
    return await ask(app, "POST", "/restore", body, {"content-type": kind, **headers})


def test_a_form_becomes_a_job_and_its_answer_a_picture() -> None:
    async def run() -> None:
        app, restore = _front()
        case = replace(CASE, request={**REQUEST, "operator": "inpainting"}, files={"mask": b"m"})
        status, headers, body = await _post(app, case)
        assert (status, body, headers["content-type"]) == (200, b"restored", "image/png")
        assert json.loads(headers["restoration-report"]) == {"status": "converged"}
        (job,) = restore.jobs
        assert job.picture == b"a picture" and job.files == {"mask": b"m"}
        assert job.request["operator"] == "inpainting" and job.request["method"] is None
        _, _, counted = await ask(app, "GET", "/metrics")
        assert b'jpmap_requests_total{status="200"} 1.0' in counted
        assert b"jpmap_together_sum 2.0" in counted and b"jpmap_working 0.0" in counted

    asyncio.run(run())


@pytest.mark.parametrize(
    "text, match",
    [
        ("{", "request: expected JSON"),
        ('{"sigma": NaN}', "NaN is no number"),
        ('{"sigma": 1e999}', "too large"),
        ("[" * 50_000, "request: expected"),
        ("[]", "expected a dictionary of its fields"),
        ("{}", "prior: expected it"),
        ('{"prior": "mnist"}', "expected it among the fields"),
        (json.dumps({**REQUEST, "sigam": 1}), "sigam: expected fields"),
        (json.dumps({**REQUEST, "prior": "/etc/passwd"}), "prior: expected mnist"),
        (json.dumps({**REQUEST, "inputs": ["/etc/passwd"]}), "inputs: expected none"),
        (json.dumps({**REQUEST, "operator": "inpainting"}), "expected mask"),
        (
            json.dumps({**REQUEST, "operator": "inpainting", "options": {"mask": "/etc/passwd"}}),
            "mask: expected its file",
        ),
    ],
)
def test_what_is_no_request_is_refused_before_any_work(text: str, match: str) -> None:
    async def run() -> None:
        app, restore = _front()
        body, kind = form(CASE)
        body = body.replace(json.dumps(REQUEST).encode(), text.encode())
        status, _, answer = await ask(app, "POST", "/restore", body, {"content-type": kind})
        assert status == 422 and match in json.loads(answer)["error"], answer
        assert not restore.jobs

    asyncio.run(run())


@pytest.mark.parametrize(
    "change, status, match",
    [
        (lambda body, kind: (body, "application/json"), 415, "multipart"),
        (lambda body, kind: (body, "multipart/form-data"), 400, ""),
        (lambda body, kind: (body[:40], kind), 422, ""),
        (lambda body, kind: (b"x" + body, kind), 400, ""),
        (lambda body, kind: (body.replace(b'name="picture"', b'name="pictures"'), kind), 422, ""),
        (
            lambda body, kind: (body.replace(b'; filename="picture"', b""), kind),
            422,
            "picture: expected a file",
        ),
        (
            lambda body, kind: (body.replace(b'name="picture"', b'name="request"'), kind),
            422,
            "request: expected one",
        ),
    ],
)
def test_what_is_no_form_is_refused(change: Any, status: int, match: str) -> None:
    async def run() -> None:
        app, restore = _front()
        body, kind = change(*form(CASE))
        got, _, answer = await ask(app, "POST", "/restore", body, {"content-type": kind})
        assert got == status and match in json.loads(answer)["error"], (got, answer)
        assert not restore.jobs

    asyncio.run(run())


def test_a_full_service_turns_away_and_says_when_to_come_again() -> None:
    async def run() -> None:
        app, restore = _front()
        restore.let.clear()
        accepted = [asyncio.create_task(_post(app, CASE)) for _ in range(3)]
        await asyncio.sleep(0.05)
        status, headers, _ = await _post(app, CASE)
        assert (status, headers["retry-after"]) == (503, "1")
        # How it is can be asked all the same.
        assert (await ask(app, "GET", "/health"))[0] == 200
        assert b"jpmap_working 3.0" in (await ask(app, "GET", "/metrics"))[2]
        restore.let.set()
        assert [answer[0] for answer in await asyncio.gather(*accepted)] == [200] * 3
        assert (await _post(app, CASE))[0] == 200

    asyncio.run(run())


def test_long_and_slow_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "PATIENCE", 0.05)

    async def run() -> None:
        app, restore = _front()
        body, kind = form(CASE)
        headers = {"content-type": kind}
        long = b"x" * 1_000_001
        assert (await ask(app, "POST", "/restore", long, headers))[0] == 413
        parts = [body[:-4], body[-4:]]
        lying = {**headers, "content-length": str(len(body) - 4)}
        assert (await ask(app, "POST", "/restore", parts, lying))[0] == 413
        unknown = {**headers, "content-length": ""}
        assert (await ask(app, "POST", "/restore", body, unknown))[0] == 411

        async def stops_halfway(scope: Any, receive: Any, send: Any) -> None:
            first = True

            async def half() -> Any:
                nonlocal first
                if first:
                    first = False
                    return {"type": "http.request", "body": body[:20], "more_body": True}
                return await asyncio.Event().wait()

            await app(scope, half, send)

        assert (await ask(stops_halfway, "POST", "/restore", body, headers))[0] == 408
        assert not restore.jobs
        assert (await _post(app, CASE))[0] == 200  # and its place is free again

    asyncio.run(run())


def test_what_nobody_foresaw_is_said_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(job: Job) -> Answer:
        raise RuntimeError("a secret of the machine")

    async def run() -> None:
        status, _, answer = await _post(_front(restore=breaks)[0], CASE)
        assert status == 500 and b"secret" not in answer and "secret" in caplog.text

    asyncio.run(run())


def test_what_takes_too_long_is_given_up() -> None:
    async def run() -> None:
        app, restore = _front(replace(SETTINGS, seconds=1))
        restore.let.clear()
        status, _, answer = await _post(app, CASE)
        assert status == 504 and "within 1 s" in json.loads(answer)["error"]

    asyncio.run(run())


def test_ready_says_whether_there_is_somebody() -> None:
    async def no() -> bool:
        return False

    async def run() -> None:
        assert (await ask(_front()[0], "GET", "/ready"))[0] == 200
        status, _, answer = await ask(_front(is_ready=no)[0], "GET", "/ready")
        assert status == 503 and json.loads(answer) == {"ready": False}

    asyncio.run(run())


def test_a_job_is_sent_again_where_its_replica_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Exception):
        pass

    class Handle:
        """Replicas of which the first few end."""

        def __init__(self, ending: int) -> None:
            self.restore, self.left = self, ending

        async def remote(self, job: Job) -> Answer:
            self.left -= 1
            if self.left >= 0:
                raise Lost
            return Answer(200)

    monkeypatch.setattr("jpmap_fast.serve.replicas._losses", lambda: (Lost,))
    monkeypatch.setattr("jpmap_fast.serve.replicas.WAIT", 0.0)
    settings = replace(SETTINGS, tries=3)
    for ending, status in ((0, 200), (2, 200), (3, 503)):
        metrics = Metrics()
        answer = asyncio.run(Retried(Handle(ending), settings, metrics)(Job({}, b"")))
        assert answer.status == status
        assert f"jpmap_retries_total {float(ending)}".encode() in metrics.text()[0]
