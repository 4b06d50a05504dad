"""The plug-in for napari: what its widgets do to layers, and that napari finds and shows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_photos import small_photo_prior

import jpmap_fast as jf

pytestmark = pytest.mark.napari

MANIFEST = Path(jf.__file__).parent / "napari.yaml"
ROOT = MANIFEST.parent.parent
SCREENSHOTS = (
    Path(os.environ["JPMAP_SCREENSHOTS"]).resolve() if "JPMAP_SCREENSHOTS" in os.environ else None
)


@pytest.fixture(autouse=True)
def offscreen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("napari", reason="needs napari, the extra napari")


@pytest.fixture
def priors(tmp_path: Path) -> dict[int, str]:
    """Files of small priors, by their channels."""
    names = {}
    for channels in (1, 3):
        names[channels] = str(tmp_path / f"small{channels}.safetensors")
        jf.save_prior(small_photo_prior(channels), names[channels])
    return names


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return make_napari_viewer()


@pytest.fixture
def plugin(npe2pm: Any) -> Iterator[None]:
    """This plug-in alone, as napari finds it by its manifest."""
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        yield


@pytest.fixture
def widgets(plugin: None, viewer: Any) -> dict[str, Any]:
    """The widgets by the names that napari's menu has for them, docked by napari."""
    return {
        name: viewer.window.add_plugin_dock_widget("jpmap-fast", name)[1]
        for name in ("Denoise", "Inpaint")
    }


def waves(shape: tuple[int, ...], low: float, high: float, kind: str) -> Any:
    """Pictures with some noise, from about low to about high."""
    grid = np.sin(np.arange(shape[-1]) / 5) * np.cos(np.arange(shape[-2]) / 4)[:, None]
    values = 0.5 + 0.35 * grid + np.random.default_rng(0).normal(0, 0.03, shape)
    return (low + (high - low) * values.clip(0, 1)).astype(kind)


def pressed(widget: Any, qtbot: Any, **values: Any) -> None:
    """What a person does: choose, press the button, wait until the work is done."""
    for name, value in values.items():
        getattr(widget, name).value = value
    from qtpy.QtCore import QThreadPool

    widget.call_button.native.click()
    assert QThreadPool.globalInstance().waitForDone(120_000)
    qtbot.wait(50)  # until the signals of the worker have come


def test_the_manifest_is_valid_and_where_the_package_says() -> None:
    npe2, tomllib = pytest.importorskip("npe2"), pytest.importorskip("tomllib")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert manifest.name == project["name"]
    found = project["entry-points"]["napari.manifest"]
    assert found == {project["name"]: "jpmap_fast:napari.yaml"}


def test_grey_layers_are_denoised_in_their_units(
    viewer: Any, widgets: dict[str, Any], qtbot: Any, priors: dict[int, str]
) -> None:
    data = waves((40, 52), 100, 900, "uint16")
    layer = viewer.add_image(data, name="cells", scale=(2, 3), colormap="magma")
    pressed(widgets["Denoise"], qtbot, image=layer, sigma=24.0, prior=priors[1])
    found = viewer.layers["cells denoised"]
    low, high = layer.contrast_limits
    own = {"sigma": 24 / (high - low), "prior": priors[1]}
    expected = jf.skimage.denoise((data - float(low)) / (high - low), **own)
    np.testing.assert_allclose(found.data, low + (high - low) * expected, rtol=1e-6)
    assert found.data.dtype == np.float32
    assert list(found.scale) == [2, 3] and found.colormap.name == "magma"
    assert list(found.contrast_limits) == [low, high]


def test_colours_count_as_their_type_and_keep_their_opacity(
    viewer: Any, widgets: dict[str, Any], qtbot: Any, priors: dict[int, str]
) -> None:
    data = np.moveaxis(waves((4, 40, 52), 0, 255, "uint8"), 0, -1)
    layer = viewer.add_image(data, name="photo", rgb=True)
    pressed(widgets["Denoise"], qtbot, image=layer, sigma=8.0, prior=priors[3])
    found = viewer.layers["photo denoised"]
    own = {"sigma": 8 / 255, "channel_axis": -1, "prior": priors[3]}
    assert found.rgb
    np.testing.assert_allclose(found.data[..., :3], jf.skimage.denoise(data[..., :3], **own), 1e-6)
    np.testing.assert_allclose(found.data[..., 3], data[..., 3] / 255, rtol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_labelled_is_filled_in_every_picture_of_a_stack(
    viewer: Any, widgets: dict[str, Any], qtbot: Any, priors: dict[int, str], stacked: bool
) -> None:
    data = waves((2, 40, 52), 0, 1, "float32")
    mask = np.zeros(data.shape if stacked else data.shape[1:], int)
    mask[..., 10:14, 20:30] = 7
    if stacked:
        mask[1] = 0
        mask[1, 30:33, 5:9] = 1
    layer, labels = viewer.add_image(data, name="stack"), viewer.add_labels(mask, name="holes")
    pressed(widgets["Inpaint"], qtbot, image=layer, mask=labels, sigma=0.03, prior=priors[1])
    found = viewer.layers["stack inpainted"].data
    missing = np.broadcast_to(mask != 0, data.shape)
    np.testing.assert_allclose(found[~missing], data[~missing], rtol=1e-6)
    assert (np.abs(found - data)[missing] > 1e-4).mean() > 0.9
    for number in range(2):
        low, high = map(float, layer.contrast_limits)
        plane = (data[number].astype(float) - low) / (high - low)
        own = {"sigma": 0.03 / (high - low), "prior": priors[1]}
        expected = jf.skimage.inpaint(plane, missing[number], **own)
        np.testing.assert_allclose(found[number], low + (high - low) * expected, rtol=1e-5)


@pytest.fixture
def shown(make_napari_viewer: Any) -> Any:
    """A viewer on the screen, where it is to be photographed."""
    return make_napari_viewer(show=SCREENSHOTS is not None)


def test_photographs_need_no_settings(plugin: None, shown: Any, qtbot: Any) -> None:
    viewer = shown
    clean = jf.data.photograph()[0, :, 20:148, 30:190].permute(1, 2, 0).numpy()
    mask = np.zeros(clean.shape[:2], int)
    mask[70:76, 20:130], mask[20:110, 96:99] = 1, 2
    data = np.rint(255 * np.where(mask[..., None], 0, clean)).astype(np.uint8)
    layer = viewer.add_image(data, name="cat", rgb=True)
    labels = viewer.add_labels(mask, name="scratches")
    widget = viewer.window.add_plugin_dock_widget("jpmap-fast", "Inpaint")[1]
    if SCREENSHOTS is not None:
        viewer.window.resize(1100, 640)
        qtbot.wait(500)
        viewer.screenshot(SCREENSHOTS / "napari-before.png", canvas_only=False, flash=False)
    pressed(widget, qtbot)
    found = viewer.layers["cat inpainted"].data
    np.testing.assert_allclose(
        found, jf.skimage.inpaint(data, labels.data, channel_axis=-1), rtol=1e-6
    )
    assert np.square(found - clean)[mask > 0].mean() < 0.05 * np.square(clean)[mask > 0].mean()
    assert layer.data is data  # as it was
    if SCREENSHOTS is not None:
        labels.visible = False
        qtbot.wait(500)
        viewer.screenshot(SCREENSHOTS / "napari.png", canvas_only=False, flash=False)


@pytest.mark.parametrize(
    ("layer", "values", "message"),
    [
        ({"contrast_limits": (0, 0.5)}, {}, "contrast limits.*cut off; widen them to 0"),
        ({}, {"prior": "none"}, "unknown prior 'none'"),
        ({}, {"mask": np.ones((40, 52), int)}, "non-zero everywhere"),
        ({}, {"mask": np.ones((3, 40, 52), int)}, "mask: expected a labels layer of shape"),
    ],
)
def test_what_cannot_be_is_told_and_adds_no_layer(
    viewer: Any,
    widgets: dict[str, Any],
    qtbot: Any,
    priors: dict[int, str],
    layer: dict[str, Any],
    values: dict[str, Any],
    message: str,
) -> None:
    image = viewer.add_image(waves((40, 52), 0, 1, "float64"), name="x", **layer)
    name = "Inpaint" if "mask" in values else "Denoise"
    values = {"prior": priors[1], "sigma": 0.03, **values}
    if "mask" in values:
        values["mask"] = viewer.add_labels(values["mask"])
    before = len(viewer.layers)
    with qtbot.capture_exceptions() as raised:  # by which napari shows them
        pressed(widgets[name], qtbot, image=image, **values)
    ((kind, error, _),) = raised
    assert kind is ValueError and re.search(message, str(error))
    assert len(viewer.layers) == before


def test_without_layers_the_widgets_say_what_they_need(widgets: dict[str, Any]) -> None:
    for name in ("Denoise", "Inpaint"):
        with pytest.raises(ValueError, match="image: expected an image layer"):
            widgets[name]()
