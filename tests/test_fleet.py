"""A folder restored by workers on two nodes: each picture once and right, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import ancestors, named
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.fleet import FleetSettings, cluster, run_fleet
from jpmap_fast.fleet.run import cut
from jpmap_fast.fleet.worker import Picture, Worker
from jpmap_fast.jobs import RestoreRequest, run
from jpmap_fast.jobs._journal import FOLDER

pytestmark = pytest.mark.fleet

COUNT = 48
# Slow enough for somebody to be killed in the middle, in batches that are small.
OPTIONS = ("--operator", "inpainting", "--sigma", "10", "--simulate", "--missing", "0.8")
SLOW = ("--method", "csgm", "--starts", "8")
WORKER = b"ray::MapWorker"


@pytest.fixture(scope="module")
def nodes() -> Iterator[str]:
    """Address of a cluster of two nodes on this machine, each with room for one worker."""
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found.address
    found.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and a file that is no picture."""
    found = tmp_path_factory.mktemp("fleet") / "in"
    found.mkdir()
    for number, digit in enumerate(jf.mnist_test_digits(COUNT)[0][:, 0].numpy()):
        array = (255 * digit).round().astype(np.uint8)
        Image.fromarray(array).save(found / f"{number:02d}.png")
    (found / "07b.png").write_bytes(b"nothing")
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """What the plain command makes of it, in one process."""
    out = folder.parent / "whole"
    result = CliRunner().invoke(app, ["restore", str(folder), *OPTIONS, *SLOW, "-o", str(out)])
    assert result.exit_code == 1, result.output
    return out


def _started(folder: Path, out: Path, address: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jpmap_fast.cli", "restore", str(folder), *OPTIONS, *SLOW]
    command += ["-o", str(out), "--ray", address, "--workers", "2", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _workers() -> list[int]:
    """Those that restore on the nodes that these tests have started."""
    return named(WORKER, os.getpid())


def _done(out: Path) -> int:
    """Sources that the journal of a run has noted."""
    journal = out / FOLDER / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def _begun(process: subprocess.Popen[str], out: Path) -> None:
    """Returns in the middle of a run."""
    while not _done(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def _check_same(out: Path, whole: Path) -> None:
    """One result a picture, in order, all of the right bits, and nothing else."""
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    for path in whole.iterdir():
        if path.suffix in (".png", ".npz"):
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    told, expected = (json.loads((p / "summary.json").read_text()) for p in (out, whole))
    assert told["images"] == expected["images"]
    assert [f["name"] for f in told["failures"]] == ["07b.png"]
    assert "not a readable picture" in told["failures"][0]["reason"]


def test_two_nodes_give_the_bits_of_one_process(
    nodes: str, folder: Path, whole: Path, tmp_path: Path
) -> None:
    process = _started(folder, tmp_path / "out", nodes)
    seen: set[int] = set()
    while process.poll() is None:
        seen |= {next(ancestors(pid)) for pid in _workers()}  # a node is their parent
        time.sleep(0.1)
    out, errors = process.communicate()
    assert process.returncode == 1, errors  # a file is no picture
    (error,) = [line for line in errors.splitlines() if "Set ray log level" not in line]
    assert error.startswith("Error: 07b.png: not a readable"), errors
    assert f"{COUNT} restored" in out and "1 failed" in out
    assert len(seen) == 2, "both nodes have restored"
    _check_same(tmp_path / "out", whole)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_killed_worker_loses_nothing(
    nodes: str, folder: Path, whole: Path, tmp_path: Path, all_of_them: bool
) -> None:
    process = _started(folder, tmp_path / "out", nodes)
    _begun(process, tmp_path / "out")
    found = _workers()
    assert len(found) == 2
    for pid in found if all_of_them else found[:1]:
        os.kill(pid, signal.SIGKILL)
    assert _done(tmp_path / "out") < COUNT
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1, errors
    _check_same(tmp_path / "out", whole)


@pytest.mark.parametrize("goes_on", ["fleet", "plain"])
def test_a_killed_run_goes_on(
    nodes: str, folder: Path, whole: Path, tmp_path: Path, goes_on: str
) -> None:
    """By the same command, or by the one without workers: what is done is the same to both."""
    out = tmp_path / "out"
    process = _started(folder, out, nodes)
    _begun(process, out)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = _done(out)
    assert 0 < done < COUNT and not (out / "summary.json").exists()
    written = {p.name: p.stat().st_mtime_ns for p in out.glob("[0-9]*.png")}
    if goes_on == "fleet":
        process = _started(folder, out, nodes, "--resume")
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 1, errors
    else:
        arguments = ["restore", str(folder), *OPTIONS, *SLOW, "-o", str(out), "--resume"]
        assert CliRunner().invoke(app, arguments).exit_code == 1
    kept = [name for name, stamp in written.items() if (out / name).stat().st_mtime_ns == stamp]
    assert len(kept) >= done
    _check_same(out, whole)


def test_a_run_goes_on_with_the_same_settings_alone(nodes: str, folder: Path, whole: Path) -> None:
    process = _started(folder, whole, nodes, "--resume", "--seed", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "seed = 0, now it is 1" in errors


def test_a_picture_that_ends_its_workers_is_told_and_the_others_are_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")

    class Deadly(Worker):
        def _restored(self, pictures: Sequence[Any]) -> Any:
            if any(picture.path.endswith("05.png") for picture in pictures):
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._restored(pictures)

    monkeypatch.setattr(cluster, "Worker", Deadly)
    files = [str(folder / f"{number:02d}.png") for number in range(10)]
    request = RestoreRequest(
        operator="denoising", sigma=0.1, inputs=files, output=str(tmp_path / "out"), device="cpu"
    )
    report = run_fleet(request, FleetSettings(workers=2))
    assert [name for name, _ in report.failures] == ["05.png"]
    assert "workers ended while they restored it alone" in report.failures[0][1]
    names = [picture.source for picture in report.pictures]
    assert names == [Path(file).name for file in files if not file.endswith("05.png")]


def test_an_error_that_is_no_pictures_own_ends_the_run_which_goes_on_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, with workers busy: the process lives, and so does what was done."""
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")

    class Failing(Worker):
        def _restored(self, pictures: Sequence[Any]) -> Any:
            if any(picture.path.endswith("20.png") for picture in pictures):
                raise MemoryError("of a test")
            return super()._restored(pictures)

    request = RestoreRequest(
        operator="denoising",
        sigma=0.1,
        inputs=[str(folder)],
        output=str(tmp_path / "out"),
        device="cpu",
        chunk_size=2,
    )
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "Worker", Failing)
        with pytest.raises(RuntimeError, match="MemoryError: of a test"):
            run_fleet(request, FleetSettings(workers=2))
    assert 0 < _done(tmp_path / "out") < COUNT
    report = run_fleet(replace(request, resume=True), FleetSettings(workers=2))
    assert len(report.restored) == COUNT


def test_batches_are_cut_by_number_and_by_size() -> None:
    sizes = [1, 1, 1, 1 << 26, 1 << 24, 1 << 24, 1, None]
    pictures = [Picture(str(i), f"{i}.png", [size, 0]) for i, size in enumerate(sizes)]
    batches = [[picture.name for picture in batch] for batch in cut(pictures, 2)]
    assert batches == [["0", "1"], ["2"], ["3"], ["4", "5"], ["6", "7"]]
    assert cut([], 2) == []


def test_what_stands_in_the_way_of_a_worker_is_told(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")
    request = RestoreRequest(
        operator="denoising", sigma=0.1, inputs=[str(folder)], output=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="1 CPUs and 64 GPUs for a worker, got at most"):
        run_fleet(request, FleetSettings(worker_gpus=64))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nothing"])
def test_a_cluster_that_is_not_there_is_told_at_once(
    folder: Path, tmp_path: Path, address: str
) -> None:
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")
    arguments = ["restore", str(folder), *OPTIONS, "-o", str(tmp_path / "out"), "--ray", address]
    begin = time.monotonic()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and f"no Ray cluster answers at {address}" in result.stderr
    assert time.monotonic() - begin < 60


def test_a_bucket_is_restored_into_a_bucket(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server of S3 on this machine, which workers ask themselves."""
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of-a-test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("bucket")
        store.put(str(folder), "bucket/in", recursive=True)
        fields = {"operator": "denoising", "sigma": 0.1, "prior": "mnist", "device": "cpu"}
        here = tmp_path / "here"
        run(RestoreRequest(inputs=[str(folder)], output=str(here), **fields))
        request = RestoreRequest(inputs=["s3://bucket/in"], output="s3://bucket/out", **fields)
        stopping = iter(range(3))

        def stop(done: int, total: int) -> None:
            if done and next(stopping, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_fleet(request, FleetSettings(workers=2), progress=stop)
        store.invalidate_cache()
        assert store.exists(f"bucket/out/{FOLDER}") and not store.exists("bucket/out/summary.json")
        with pytest.raises(ValueError, match="s3://bucket/out had sigma = 0.1, now it is 0.2"):
            run(replace(request, sigma=0.2, resume=True))
        report = run_fleet(replace(request, resume=True), FleetSettings(workers=2))
        assert len(report.restored) == COUNT and [n for n, _ in report.failures] == ["07b.png"]
        store.invalidate_cache()
        names = {path.rpartition("/")[2] for path in store.find("bucket/out")}
        assert names == {path.name for path in here.iterdir()}
        for path in here.iterdir():
            if path.suffix in (".png", ".npz"):
                assert store.cat(f"bucket/out/{path.name}") == path.read_bytes(), path.name
    finally:
        server.stop()


def test_the_benchmark_counts_and_compares(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs Ray Data, the extra ray")
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "fleet.py"
    output = tmp_path / "fleet.json"
    small = ["--pictures", "8", "--size", "32", "--batch", "1", "--rounds", "1", "--workers", "1,2"]
    subprocess.run([sys.executable, str(script), *small, "--output", str(output)], check=True)
    document = json.loads(output.read_text())
    assert [row["workers"] for row in document["rows"]] == [1, 2]
    assert all(row["same_bits"] and row["per_second"] > 0 for row in document["rows"])
    assert document["table"]["rows"][0][2] == 1
