"""The page as it is served: nothing of the machine is read, nothing is fetched, errors are told."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image
from typer.testing import CliRunner

from jpmap_fast.app import page as page_module
from jpmap_fast.app.doors import Doors
from jpmap_fast.app.settings import PageSettings
from jpmap_fast.cli import app

SECRET = "a text that nobody may read"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the page's own folder lies what nobody may read."""
    pytest.importorskip("gradio", reason="needs gradio, the extra app")
    folder = tmp_path_factory.mktemp("machine")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "page").mkdir()
    (folder / "page" / "results").mkdir()
    (folder / "page" / "results" / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of a page that is there."""
    settings = PageSettings(folder=folder / "page", port=0, device="cpu", megabytes=1)
    with page_module.shown_at(settings) as address:
        yield address


def _asked(address: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """The answer to a path as it stands, which no client tidies up."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _uploaded(address: str, name: str, content: bytes) -> Any:
    edge = "edge"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        f"Content-Type: image/png\r\n\r\n"
    ).encode()
    body += content + f"\r\n--{edge}--\r\n".encode()
    kind = f"multipart/form-data; boundary={edge}"
    return _asked(address, "POST", "/gradio_api/upload", body, **{"Content-Type": kind})


def _pressed(address: str, name: str, changed: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told after a button was pressed with fields as they are, but for some."""
    config = json.loads(_asked(address, "GET", "/config")[1])
    parts = {part["id"]: part for part in config["components"]}
    button = next(n for n, part in parts.items() if part["props"].get("elem_id") == name)
    event = next(e for e in config["dependencies"] if [button, "click"] in e["targets"])
    values = [
        changed.get(parts[n]["props"].get("elem_id"), parts[n]["props"].get("value"))
        for n in event["inputs"]
    ]
    body = json.dumps({"data": values, "fn_index": event["id"], "session_hash": "s"})
    status, answer = _asked(
        address, "POST", "/gradio_api/queue/join", body, **{"Content-Type": "application/json"}
    )
    if status != 200:
        return [{"status": status, "answer": answer.decode()}]
    told = _asked(address, "GET", "/gradio_api/queue/data?session_hash=s")[1].decode()
    return [json.loads(line[5:]) for line in told.splitlines() if line.startswith("data:")]


def _file(path: str) -> dict[str, Any]:
    return {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}


def _paths(folder: Path) -> list[str]:
    secret = str(folder / "secret.txt")
    found = [secret, str(folder / "page" / "results" / "secret.txt"), "/etc/passwd"]
    found += [f"{folder}/page/cache/../../secret.txt", "../../../../../../etc/passwd"]
    found += [f"file://{secret}", str(Path(page_module.__file__)), "/proc/self/environ"]
    return found


def test_no_file_of_the_machine_is_served(address: str, folder: Path) -> None:
    assert _asked(address, "GET", "/")[0] == 200
    doors = (
        *("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/"),
        *("/gradio_api/stream/", "/gradio_api/proxy=", "/proxy=", "/custom_component/", "/"),
        *("/gradio_api/custom_component/", "/pwa_icon/", "/theme/", "/gradio_api/component_server"),
        *("/static/../", "/assets/..%2f..%2f", "/gradio_api/file=x/../"),
    )
    for door in doors:
        for path in _paths(folder):
            for form in (path, quote(path), quote(path, safe=""), quote(quote(path, safe=""))):
                _, answer = _asked(address, "GET", f"{door}{form}".replace(" ", "%20"))
                assert SECRET.encode() not in answer, (door, form)
                assert b"root:" not in answer and b"from __future__" not in answer, (door, form)


def test_what_was_uploaded_is_served_to_who_knows_its_name(address: str, tmp_path: Path) -> None:
    """So the test above asks at doors that open."""
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    status, answer = _uploaded(address, "x.png", (tmp_path / "x.png").read_bytes())
    (path,) = json.loads(answer)
    assert status == 200
    assert _asked(address, "GET", f"/gradio_api/file={path}")[1][:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["../../secret.png", "..%2f..%2fx.png", "/etc/x.png", "a\\..\\b"])
def test_an_upload_stays_in_its_folder(address: str, folder: Path, name: str) -> None:
    before = {path for path in folder.rglob("*") if "cache" not in path.parts}
    status, answer = _uploaded(address, name, b"x")
    if status == 200:
        assert Path(json.loads(answer)[0]).resolve().is_relative_to(folder / "page" / "cache")
    assert {path for path in folder.rglob("*") if "cache" not in path.parts} == before


def test_large_uploads_are_refused(address: str) -> None:
    assert _uploaded(address, "x.png", b"0" * 2_000_000)[0] == 413


def test_a_file_of_the_machine_is_no_picture_that_was_dropped(address: str, folder: Path) -> None:
    for path in _paths(folder):
        told = _pressed(address, "restore", {"picture": _file(path)})
        text = json.dumps(told)
        assert "400" in text or '"success": false' in text, (path, text)
        assert SECRET not in text
        assert "from __future__" not in text and "root:" not in text


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:1/x.png", "https://a.example/x.png", " ftp://x/"]
)
def test_nothing_is_fetched_from_elsewhere(address: str, where: str) -> None:
    told = _pressed(address, "restore", {"picture": _file(where)})
    assert told == [{"status": 400, "answer": ""}]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, "picture: expected one, drop it first"),
        ({"operator": "blur", "kernel": "/etc/passwd"}, "kernel: expected a formula"),
        ({"operator": "blur", "kernel": "gaussian:1e7"}, "moderate size"),
        ({"prior": "/etc/passwd"}, "not in the list of choices"),
    ],
)
def test_what_is_wrong_is_told_on_the_page(
    address: str, tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    if fields:
        Image.new("L", (28, 28)).save(tmp_path / "x.png")
        _, answer = _uploaded(address, "x.png", (tmp_path / "x.png").read_bytes())
        fields = {"picture": _file(json.loads(answer)[0]), **fields}
    told = _pressed(address, "restore", fields)
    (done,) = [line for line in told if line["msg"] == "process_completed"]
    assert not done["success"] and expected in done["output"]["error"], done
    assert "Traceback" not in json.dumps(told)


def test_what_the_page_does_not_need_is_closed(address: str) -> None:
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/proxy=http://a.example/"):
        assert _asked(address, "GET", path)[0] == 404, path
    assert _asked(address, "POST", "/gradio_api/vibe-edit/", b"{}")[0] == 404
    assert Doors.as_option()["middleware"]


def test_another_site_may_not_use_the_page(address: str) -> None:
    """A page of another origin in the same browser is answered without leave to read."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", "/config", headers={"Origin": "https://a.example"})
    answer = connection.getresponse()
    answer.read()
    assert answer.getheader("access-control-allow-origin") != "https://a.example"
    assert answer.getheader("access-control-allow-origin") != "*"


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    result = CliRunner().invoke(app, ["app", "--no-browser"])
    assert result.exit_code == 2
    assert "pip install 'jpmap-fast[app]'" in result.stderr
