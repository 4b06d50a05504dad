"""The colour faces that experiments restore."""

from __future__ import annotations

from torch import Tensor

from jpmap_fast.data import load_images, portrait
from jpmap_fast.experiments.context import Context

SHAPE = (3, 64, 64)


def faces(context: Context, number: int, copies: int) -> tuple[Tensor, str]:
    """Faces [B, 3, 64, 64] on the CPU, and what they are in words.

    Args:
        context: its setting ``faces`` names a folder or file; without one the package's portrait is
            taken ``copies`` times, for as many masks and noises.
        number: images of a folder or file, at most.
        copies: see above.
    """
    source = context.settings.faces
    if source is None:
        degraded = f", degraded independently {copies} times" if copies > 1 else ""
        text = (
            f"One photograph, the package's portrait{degraded}: an example, not a sample of faces; "
            "--faces takes your own."
        )
        return portrait().repeat(copies, 1, 1, 1), text
    images = load_images(source, image_shape=SHAPE).images[:number]
    return images, f"{len(images)} colour faces of 64 x 64 pixels."
