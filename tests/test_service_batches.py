"""What a replica does: jobs of one kind together, each as if it were alone. It needs no Ray."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from service_process import Case, cases

import jpmap_fast as jf
from jpmap_fast.jobs import RestoreRequest
from jpmap_fast.jobs import _kept_restoring as kept_module
from jpmap_fast.jobs._kept_restoring import KeptRestoring
from jpmap_fast.jobs._sources import Item
from jpmap_fast.serve import batches as batches_module
from jpmap_fast.serve.batcher import Batcher
from jpmap_fast.serve.batches import Batches, Opened
from jpmap_fast.serve.schema import document
from jpmap_fast.serve.settings import ServiceSettings
from jpmap_fast.serve.wire import Answer, Job

SETTINGS = ServiceSettings(priors=("mnist",), batch=4)


@pytest.fixture(scope="module")
def given() -> list[Case]:
    """Requests with the answers that ``restore_picture`` gives."""
    threads = torch.get_num_threads()
    try:
        return cases(5, priors=("mnist",))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As many as a replica has, so that bits are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _job(case: Case) -> Job:
    return Job(RestoreRequest(**case.request).to_dict(), case.picture, case.files)


def _check(case: Case, answer: Answer) -> None:
    assert answer.status == case.status, (case.name, answer)
    if case.body is not None:
        assert answer.body == case.body, case.name
        assert answer.report is not None and answer.report["failure"] is None
    else:
        assert answer.error and not answer.body


def test_answers_are_those_of_each_picture_alone(given: list[Case]) -> None:
    """Also from the second batch on, which Restorers make."""
    batches = Batches(SETTINGS)
    for _ in range(3):
        groups: dict[Any, list[tuple[Case, Opened]]] = {}
        for case in given:
            opened = batches.opened(_job(case))
            if isinstance(opened, Answer):
                _check(case, opened)
            else:
                groups.setdefault(opened.group, []).append((case, opened))
        assert sorted(len(group) for group in groups.values()) == [1, 5, 5, 5, 5, 5, 5]
        for group in groups.values():
            answers = batches.restored([opened for _, opened in group])
            for (case, _), answer in zip(group, answers, strict=True):
                _check(case, answer)
                assert answer.together == len(group)


def test_jobs_that_arrive_together_are_restored_together(given: list[Case]) -> None:
    async def run() -> list[Answer]:
        batcher = Batcher(Batches(SETTINGS))
        return await asyncio.gather(*(batcher(_job(case)) for case in given))

    answers = asyncio.run(run())
    for case, answer in zip(given, answers, strict=True):
        _check(case, answer)
    # Five of a kind: four of them make a batch, and one is left.
    together = [a.together for c, a in zip(given, answers, strict=True) if c.name == "csgm"]
    assert sorted(together) == [1, 4, 4, 4, 4]


class _Slow(Batches):
    """Says what it restores, and does no work before it is let."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.restored_names: list[list[str]] = []
        self.let = threading.Event()

    def opened(self, job: Job) -> Opened | Answer:
        name = job.picture.decode()
        item = Item(name, np.zeros((1, 2, 2), np.float32), 0)
        return Opened(None, item, (name[0],))  # type: ignore[arg-type]

    def restored(self, jobs: Any) -> list[Answer]:
        self.let.wait(10)
        self.restored_names.append([job.item.name for job in jobs])
        return [Answer(200, together=len(jobs)) for _ in jobs]


def test_who_waits_longest_comes_first_and_nobody_waits_for_ever() -> None:
    async def run() -> list[list[str]]:
        slow = _Slow()
        batcher = Batcher(slow)
        names = [*(f"a{i}" for i in range(6)), "b0", "c0", "c1"]
        work = [asyncio.create_task(batcher(Job({}, name.encode()))) for name in names]
        await asyncio.sleep(0.05)
        work[7].cancel()  # c0 goes away while it waits
        await asyncio.sleep(0)
        slow.let.set()
        await asyncio.gather(*work, return_exceptions=True)
        return slow.restored_names

    # a4 and a5 were behind b0 and c1 once the first of their kind had had their turn.
    assert asyncio.run(run()) == [["a0", "a1", "a2", "a3"], ["b0"], ["c1"], ["a4", "a5"]]


def test_what_breaks_one_picture_leaves_the_others(
    given: list[Case], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = [case for case in given if case.name == "csgm"]
    batches = Batches(SETTINGS)
    opened = [batches.opened(_job(case)) for case in right]
    assert not any(isinstance(found, Answer) for found in opened)
    good = batches_module.written

    def breaks(x: Any, item: Any) -> Any:
        if item is opened[1].item:  # type: ignore[union-attr]
            raise RuntimeError("a secret of the machine")
        return good(x, item)

    monkeypatch.setattr(batches_module, "written", breaks)
    answers = batches.restored(opened)  # type: ignore[arg-type]
    for number, (case, answer) in enumerate(zip(right, answers, strict=True)):
        if number == 1:
            assert answer.status == 500 and "secret" not in answer.error
            assert "secret" in caplog.text
        else:
            _check(case, answer)


@pytest.mark.parametrize(
    "fields, picture, files, match",
    [
        ({"operator": "denoising"}, b"", {}, "empty"),
        ({"operator": "denoising"}, b"\x93NUMPY", {}, "NumPy"),
        ({"operator": "denoising"}, b"PK\x03\x04", {}, "NumPy"),
        ({"operator": "inpainting"}, None, {"mask": b"x"}, "mask: not a readable picture"),
        ({"operator": "denoising"}, None, {"mask": b"x"}, "mask"),
        ({"operator": "blur", "options": {"kernel": "/etc/passwd"}}, None, {}, "a formula"),
        ({"operator": "denoising", "prior": "faces"}, None, {}, "prior: expected mnist"),
        (
            {"operator": "inpainting", "options": {"missing": 0.5}, "simulate": True},
            None,
            {},
            "simulate: expected false",
        ),
        (
            {"operator": "super-resolution", "options": {"factor": 2000}},
            None,
            {},
            "expected",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused_with_its_reason(
    fields: dict[str, Any], picture: bytes | None, files: Any, match: str, given: list[Case]
) -> None:
    request = RestoreRequest(**{"sigma": 0.1, **fields}).to_dict()
    job = Job(request, given[0].picture if picture is None else picture, files)
    answer = Batches(SETTINGS).opened(job)
    assert isinstance(answer, Answer) and answer.status == 422
    assert match in answer.error and "/tmp" not in answer.error


def test_a_batch_that_takes_too_long_is_given_up(
    given: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its answers by then, and others do for theirs."""
    batches = Batches(SETTINGS)
    opened = [batches.opened(_job(case)) for case in given if case.name == "blur"]
    monkeypatch.setattr(batches, "_settings", replace(SETTINGS, seconds=1))
    monkeypatch.setattr("time.monotonic", iter(range(1000)).__next__)
    answers = batches.restored(opened)  # type: ignore[arg-type]
    assert [answer.status for answer in answers] == [504] * len(opened)


def test_a_small_file_of_a_large_picture_is_refused(given: list[Case]) -> None:
    small = ServiceSettings(priors=("mnist",), megapixels=1e-4)
    answer = Batches(small).opened(_job(given[0]))
    assert isinstance(answer, Answer)
    assert answer.status == 422 and "at most 400 numbers" in answer.error


def test_jobs_are_alike_where_all_but_the_picture_is() -> None:
    job = Job({"a": 1, "b": 2}, b"x", {"mask": b"m"})
    assert job.alike == Job({"b": 2, "a": 1}, b"y", {"mask": b"m"}).alike
    others = [Job({"a": 1, "b": 3}, b"x", {"mask": b"m"}), Job(job.request, b"x", {"mask": b"n"})]
    others += [Job(job.request, b"x", {"mas": b"km"}), Job(job.request, b"x")]
    assert len({job.alike, *(other.alike for other in others)}) == 5


def test_restorers_are_made_for_what_comes_again_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_module, "KEPT", 3)
    ready = KeptRestoring(RestoreRequest(operator="denoising", sigma=0.3), most=64)
    digits = jf.mnist_test_digits(4)[0]
    for size in (2, 2, 1, 2, 3, 4):
        found = ready.result(digits[:size], jf.Denoising(), (1, 28, 28), 0.3)
        assert found.x.shape[0] == size
    kept = ready._restorers
    assert list(kept) == [(1, 28, 28, 2), (1, 28, 28, 3), (1, 28, 28, 4)]
    assert isinstance(kept[1, 28, 28, 2], jf.Restorer) and kept[1, 28, 28, 3] is None


def test_settings_say_what_is_wrong() -> None:
    for fields in ({"replicas": 0}, {"seconds": 0.1}, {"port": -1}, {"megapixels": 0.0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            ServiceSettings(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prior: expected"):
        ServiceSettings(priors=("/etc/passwd",))
    assert "mnist" in ServiceSettings().names


def test_the_document_names_operators_files_and_priors() -> None:
    found = document(("mnist",))
    form = found["paths"]["/restore"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert {"request", "picture", "mask", "kernel", "matrix"} == set(form["schema"]["properties"])
    kinds = form["schema"]["properties"]["request"]["oneOf"]
    options = {k["properties"]["operator"]["enum"][0]: k["properties"]["options"] for k in kinds}
    assert options["super-resolution"]["required"] == ["factor"]
    assert set(options["blur"]["properties"]) == {"kernel", "boundary"}
    assert not options["inpainting"]["properties"]  # its mask is a file
    assert all(kind["properties"]["prior"]["enum"] == ["mnist"] for kind in kinds)
