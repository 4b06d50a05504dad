"""Folders elsewhere, by their URLs: read, written whole, and gone on with, as those here are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.jobs import RestoreRequest, SampleRequest, _opened, run, run_sampling, with_prior
from jpmap_fast.jobs._journal import FOLDER
from jpmap_fast.jobs._places import full_name, is_same, place, stamp

upath = pytest.importorskip("upath", reason="needs universal_pathlib, the extra ray")

PLAIN: dict[str, Any] = {"operator": "denoising", "sigma": 0.1, "device": "cpu"}
SIMULATED = {"operator": "inpainting", "options": {"missing": 0.5}, "simulate": True}


@pytest.fixture
def store() -> Iterator[Any]:
    """A store in memory, empty."""
    import fsspec

    found = fsspec.filesystem("memory")
    found.store.clear()
    yield found
    found.store.clear()


@pytest.fixture
def folder(tmp_path: Path, store: Any) -> Path:
    """Six digits and a file that is no picture, here and at memory://in."""
    found = tmp_path / "in"
    found.mkdir()
    for number, digit in enumerate(jf.mnist_test_digits(6)[0][:, 0].numpy()):
        array = (255 * digit).round().astype(np.uint8)
        Image.fromarray(array).save(found / f"{number}.png")
    (found / "z.png").write_bytes(b"nothing")
    for path in found.iterdir():
        store.pipe_file(f"/in/{path.name}", path.read_bytes())
    return found


def _requests(folder: Path, **more: Any) -> tuple[RestoreRequest, RestoreRequest]:
    """The same run here and elsewhere."""
    fields = {**PLAIN, **more}
    here = RestoreRequest(inputs=[folder], output=folder.parent / "out", **fields)
    return here, RestoreRequest(inputs=["memory://in"], output="memory://out", **fields)


def _check_same(store: Any, here: Path) -> None:
    names = {name.removeprefix("/out/") for name in store.find("/out")}
    files = {path.relative_to(here).as_posix(): path for path in here.rglob("*") if path.is_file()}
    assert names == files.keys()
    for name, path in files.items():
        if name.endswith("summary.json"):
            own, other = json.loads(path.read_text()), json.loads(store.cat(f"/out/{name}"))
            assert own["images"] == other["images"]
            assert [f["name"] for f in own["failures"]] == [f["name"] for f in other["failures"]]
        else:
            assert store.cat(f"/out/{name}") == path.read_bytes(), name


@pytest.mark.parametrize("more", [{}, SIMULATED, {"prior": "patches", "simulate": True}])
def test_a_run_elsewhere_writes_what_one_here_writes(
    folder: Path, store: Any, more: dict[str, Any]
) -> None:
    here, elsewhere = _requests(folder, **more)
    run(here)
    report = run(elsewhere)
    assert report.output == "memory://out" and len(report.restored) == 6
    _check_same(store, folder.parent / "out")


def test_draws_go_elsewhere_as_well(folder: Path, store: Any) -> None:
    here, elsewhere = _requests(folder)
    for request in (here, elsewhere):
        run_sampling(SampleRequest(restore=request, draws=3, settings={"starts": 1}))
    _check_same(store, folder.parent / "out")


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_a_stopped_run_goes_on(
    folder: Path, store: Any, stopped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_opened, "BATCH", 2)
    here, elsewhere = _requests(folder, **SIMULATED)
    run(here)

    def stop(done: int, total: int) -> None:
        if done > stopped:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(elsewhere, progress=stop)
    pieces = sorted(name.rpartition("/")[2] for name in store.find(f"/out/{FOLDER}"))
    assert pieces == [f"{i:08d}.npz" for i in range((stopped + 1) // 2)]
    restored, restore = [], jf.restore

    def counted(y: Any, *rest: Any, **options: Any) -> Any:
        restored.append(len(y))
        return restore(y, *rest, **options)

    monkeypatch.setattr(jf, "restore", counted)
    again = replace(elsewhere, resume=True)
    with pytest.raises(ValueError, match="the run in memory://out had seed = 0, now it is 1"):
        run(replace(again, seed=1))
    run(again)
    assert sum(restored) == 6 - 2 * len(pieces)
    _check_same(store, folder.parent / "out")
    with pytest.raises(ValueError, match="seed = 0, now it is 1"):  # it is finished
        run(replace(again, seed=1))


def test_a_run_that_begins_anew_forgets_what_another_has_left(folder: Path, store: Any) -> None:
    here, elsewhere = _requests(folder)
    store.pipe_file(f"/out/{FOLDER}/00000007.npz", b"of another run")
    run(here)
    run(elsewhere)
    _check_same(store, folder.parent / "out")


def test_a_picture_that_has_changed_is_noticed(folder: Path, store: Any) -> None:
    _, elsewhere = _requests(folder, chunk_size=2)

    def stop(done: int, total: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(elsewhere, progress=stop)
    store.pipe_file("/in/0.png", store.cat("/in/1.png") + b"!")
    with pytest.raises(ValueError, match="0.png has changed since it was restored"):
        run(replace(elsewhere, resume=True))


def test_inputs_elsewhere_are_never_overwritten(folder: Path, store: Any) -> None:
    request = RestoreRequest(inputs=["memory://in"], output="memory://in/", **PLAIN)
    with pytest.raises(ValueError, match="overwritten"):
        run(request)
    assert store.cat("/in/0.png") == (folder / "0.png").read_bytes()


def test_a_store_without_whole_objects_is_written_under_another_name_first(
    folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks while a file is copied sees the one before, or none."""
    put, seen = type(store).put_file, []

    def looking(self: Any, path: str, name: str, *rest: Any, **options: Any) -> None:
        seen.append(name)
        put(self, path, name, *rest, **options)

    monkeypatch.setattr(type(store), "put_file", looking)
    run(_requests(folder)[1])
    assert seen and all(name.endswith(".part") for name in seen)
    assert not [name for name in store.find("/out") if name.endswith(".part")]


def test_the_prior_of_pictures_elsewhere_is_chosen(folder: Path) -> None:
    request = RestoreRequest(inputs=["memory://in"], **PLAIN)
    assert with_prior(request).prior == "mnist"


def test_the_command_takes_urls(folder: Path, store: Any) -> None:
    arguments = ["--operator", "denoising", "--sigma", "25.5", "-o", "memory://out"]
    result = CliRunner().invoke(app, ["restore", "memory://in", *arguments])
    assert result.exit_code == 1 and "Written to memory://out" in result.stdout, result.output
    assert "z.png" in result.stderr and store.exists("/out/5.png")
    for url, message in (
        ("memory://none", "no such file or folder"),
        ("nothing://in", "nothing"),
    ):
        result = CliRunner().invoke(app, ["restore", url, *arguments])
        assert result.exit_code == 2 and result.stderr.startswith("Error: "), result.output
        assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    assert place(f"file://{tmp_path}/in") == tmp_path / "in"
    assert isinstance(place(f"file://{tmp_path}"), Path)
    assert place("in") == Path("in")


def test_one_place_has_one_name(tmp_path: Path, store: Any) -> None:
    store.pipe_file("/in/a.png", b"a")
    assert is_same(place("memory://in"), place("memory://in/"))
    assert not is_same(place("memory://in"), place("memory://out"))
    assert not is_same(place("memory://in"), tmp_path)
    assert full_name(place("memory://in/")) == full_name(place("memory://in"))
    before = stamp(place("memory://in/a.png"))
    assert stamp(place("memory://in/a.png")) == before
    store.pipe_file("/in/a.png", b"b")
    assert stamp(place("memory://in/a.png")) != before


def test_without_universal_pathlib_a_url_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "upath", None)
    with pytest.raises(ImportError, match=r"pip install 'jpmap-fast\[ray\]'"):
        place("s3://bucket/in")
