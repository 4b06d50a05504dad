"""Widgets of napari, which work in a thread of their own."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import napari
import numpy as np
from magicgui import magic_factory
from napari.qt.threading import GeneratorWorker, thread_worker

from jpmap_fast.data.picture import Array
from jpmap_fast.napari.planes import Planes

# Of a layer, what its restoration has in common with it.
_COMMON = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "rgb")
_GREY = ("contrast_limits", "colormap", "gamma")
_NOISE = {
    "label": "noise (0: estimate)",
    "min": 0.0,
    "max": 1e9,
    "step": 0.0001,
    "tooltip": "Standard deviation, in the units of the layer's values; 0 estimates it.",
}
_PRIOR = {
    "label": "prior (empty: photographs)",
    "tooltip": "Name of a bundled prior, a path, or hf://owner/name.",
}


@magic_factory(call_button="Denoise", sigma=_NOISE, prior=_PRIOR)
def denoise(
    viewer: napari.Viewer, image: napari.layers.Image, sigma: float = 0.0, prior: str = ""
) -> Any:
    """A layer without its noise, as a new one.

    Grey values count from black to white as the contrast limits say, colours as their type does.
    Stacks are restored picture by picture: planes of the last two axes.

    Args:
        viewer: that the new layer is added to.
        image: the layer.
        sigma: standard deviation of the noise, in the units of the layer; 0 estimates it.
        prior: name or path of one; "" for that of photographs.

    Returns:
        The worker, started.
    """
    planes = _planes(image)
    return _started(viewer, image, planes, "denoised", planes.restored(sigma, prior))


@magic_factory(
    call_button="Inpaint",
    sigma=_NOISE,
    prior=_PRIOR,
    keep={"label": "keep known pixels", "tooltip": "Otherwise they are denoised."},
)
def inpaint(
    viewer: napari.Viewer,
    image: napari.layers.Image,
    mask: napari.layers.Labels,
    sigma: float = 0.0,
    keep: bool = True,
    prior: str = "",
) -> Any:
    """A layer with its missing pixels filled in, as a new one.

    Args:
        viewer, image, sigma, prior: as of ``denoise``.
        mask: labels, of whatever number, where pixels are missing: of each picture of a stack, or
            one for all.
        keep: leave the other pixels as they were.

    Returns:
        The worker, started.
    """
    planes = _planes(image)
    if mask is None:
        raise ValueError("mask: expected a labels layer; add one and paint over what is missing")
    # A copy: somebody may go on painting.
    restored = planes.restored(sigma, prior, np.array(mask.data), keep)
    return _started(viewer, image, planes, "inpainted", restored)


def _planes(image: napari.layers.Image | None) -> Planes:
    if image is None:
        raise ValueError("image: expected an image layer, open one first")
    if image.multiscale:
        raise ValueError(
            f"{image.name}: expected a picture of one scale, got a multiscale one; add one of its "
            "levels as a layer"
        )
    low, high = image.contrast_limits
    return Planes(image.data, image.rgb, (float(low), float(high)), image.name)


def _started(
    viewer: napari.Viewer,
    image: napari.layers.Image,
    planes: Planes,
    done: str,
    restored: Generator[None, None, Array],
) -> GeneratorWorker:
    """A worker whose pictures become a layer like the one they are of."""
    meta = image.as_layer_data_tuple()[1]
    kept = {name: meta[name] for name in (*_COMMON, *_GREY) if name in meta}
    if image.rgb:
        kept = {name: value for name, value in kept.items() if name not in _GREY}
    kept["name"] = f"{image.name} {done}"

    @thread_worker(progress={"total": planes.count, "desc": kept["name"]})
    def work() -> Generator[None, None, Array]:
        return (yield from restored)

    worker = work()
    worker.returned.connect(lambda data: viewer.add_image(data, **kept))
    worker.start()
    return worker
