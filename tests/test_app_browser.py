"""The page in a browser: a picture is dropped, painted on, restored and taken home."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = (
    Path(os.environ["JPMAP_SCREENSHOTS"]).resolve() if "JPMAP_SCREENSHOTS" in os.environ else None
)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs gradio, the extra app")
    from jpmap_fast.app.page import shown_at
    from jpmap_fast.app.settings import PageSettings

    folder = tmp_path_factory.mktemp("page")
    with shown_at(PageSettings(folder=folder, port=0, device="cpu")) as address:
        yield address


@pytest.fixture
def browser(address: str) -> Iterator[Any]:
    """A page of a browser without a screen, and the addresses that it asks for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(
            executable_path=program, chromium_sandbox=os.getuid() != 0, args=list(QUIET)
        )
        page = chromium.new_page(viewport={"width": 1400, "height": 1400}, accept_downloads=True)
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#picture input[type=file]", state="attached")
        yield page
        chromium.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, f"the page asks elsewhere: {elsewhere}"


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    values = jf.mnist_test_digits(1)[0][0, 0].numpy()
    Image.fromarray((255 * values).round().astype(np.uint8)).save(path)
    return path


def _drop(page: Any, name: str, path: Path) -> None:
    page.set_input_files(f"#{name} input[type=file]", path)


def _choose(page: Any, name: str, text: str) -> None:
    page.click(f"#{name} input")
    page.click(f"#{name} li:has-text('{text}')")


def _restored(page: Any) -> str:
    page.click("#restore")
    page.wait_for_function("document.querySelector('#told textarea').value.length > 0")
    return str(page.input_value("#told textarea"))


def _downloaded(page: Any, name: str, to: Path) -> Path:
    with page.expect_download() as download:
        page.click(f"#files a[download='{name}']")
    download.value.save_as(to)
    return to


def _code(page: Any, name: str) -> str:
    return "\n".join(line.inner_text() for line in page.query_selector_all(f"#{name} .cm-line"))


def test_upload_paint_restore_download(
    browser: Any, digit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = browser
    _drop(page, "picture", digit)
    page.wait_for_selector("#seen textarea")
    assert page.input_value("#seen textarea") == "28 x 28 pixels, grey, uint8"
    _choose(page, "operator", "inpainting")
    page.uncheck("#estimate input")
    page.fill("#sigma input", "5")
    canvas = page.wait_for_selector("#paint canvas")
    page.wait_for_timeout(1500)  # until the editor has drawn the picture
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=10)
    page.mouse.up()
    page.wait_for_timeout(1000)
    told = _restored(page)
    assert "prior mnist, noise 5 of 255" in told

    # What was painted: a stroke across the middle, wider than it is high.
    home = tmp_path / "home"
    home.mkdir()
    mask = np.asarray(Image.open(_downloaded(page, "mask.png", home / "mask.png")))
    rows, columns = np.nonzero(mask == 0)
    assert mask.shape == (28, 28) and set(np.unique(mask)) == {0, 255}
    assert 0 < np.ptp(rows) + 1 < np.ptp(columns) < 28
    assert abs(rows.mean() - 13.5) < 1.5 and abs(columns.mean() - 13.5) < 1.5

    # What is taken home is what both recipes make of the same files.
    found = _downloaded(page, "digit.png", tmp_path / "found.png").read_bytes()
    assert page.get_attribute("#slider img >> nth=0", "src")
    (home / "digit.png").write_bytes(digit.read_bytes())
    monkeypatch.chdir(home)
    exec(_code(page, "python"), {})
    assert Path("restored/digit.png").read_bytes() == found
    shutil.rmtree("restored")
    _, *words = shlex.split(_code(page, "command"))
    assert CliRunner().invoke(app, words).exit_code == 0
    assert Path("restored/digit.png").read_bytes() == found
    if SCREENSHOTS is not None:
        page.wait_for_timeout(1000)
        page.screenshot(path=SCREENSHOTS / "app.png", full_page=True)


def test_uncertainty_is_shown_and_an_error_is_told(browser: Any, digit: Path) -> None:
    page = browser
    page.click("#restore")
    page.wait_for_selector("text=picture: expected one, drop it first")
    _drop(page, "picture", digit)
    page.wait_for_selector("#seen textarea")
    page.click("#sample")
    page.wait_for_selector("#spread img")
    assert "standard deviation" in page.input_value("#spread-told textarea")
    assert _code(page, "command").startswith("jpmap-fast sample digit.png")
    _choose(page, "prior", "photos-grey")
    page.click("#sample")
    page.wait_for_selector("text=codes")


def test_only_the_options_of_the_operator_are_seen(browser: Any) -> None:
    page = browser
    seen = {"denoising": (), "blur": ("kernel", "boundary"), "super-resolution": ("factor",)}
    for operator, names in seen.items():
        _choose(page, "operator", operator)
        for name in names:
            page.wait_for_selector(f"#{name}")
        for name in {"kernel", "factor", "mask-file", "missing"} - set(names):
            if not (name == "kernel" and operator == "super-resolution"):
                page.wait_for_selector(f"#{name}", state="hidden")
    page.click("text=More")
    page.check("#simulate input")
    _choose(page, "operator", "inpainting")
    page.wait_for_selector("#missing")
