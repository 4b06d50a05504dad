"""Random crops of pictures of any size, cut on the device that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Crops:
    """Pictures kept as bytes in one buffer, and batches of square crops out of them.

    A batch is made without a word from the host, so that a CUDA graph can hold it: a picture, a
    scale, a place, and one of the eight flips and turns for every crop.

    Args:
        pictures: uint8 [C, H, W] each, of any size that holds a crop.
        size: of the crops, in pixels.
        scales: factors the pictures are held at as well, in (0, 1]; each is drawn equally often.
        device: where they are kept.

    Raises:
        ValueError: a picture smaller than a crop.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        size: int,
        scales: Sequence[float] = (1.0,),
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        self.channels = pictures[0].shape[0]
        held = []
        for picture in pictures:
            if min(picture.shape[1:]) < size:
                raise ValueError(
                    f"pictures: expected at least {size} x {size} pixels, a crop, got one of "
                    f"{picture.shape[1]} x {picture.shape[2]}"
                )
            held += [_scaled(picture, scale, size) for scale in scales]
        starts, total = [], 0
        for picture in held:
            starts.append(total)
            total += picture[0].numel()
        self._planes = torch.empty(self.channels, total, dtype=torch.uint8)
        for start, picture in zip(starts, held, strict=True):
            self._planes[:, start : start + picture[0].numel()] = picture.flatten(1)
        self._planes = self._planes.to(device)
        table = [(s, p.shape[1], p.shape[2]) for s, p in zip(starts, held, strict=True)]
        self._table = torch.tensor(table, device=device)  # [N, 3]: start, height, width
        self._along = torch.arange(size, device=device)

    def draw(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """``number`` crops [number, C, size, size], float32 in [0, 1]."""
        device = self._planes.device
        u = torch.rand(number, 6, 1, 1, device=device, generator=generator)
        row = (u[:, 0, 0, 0] * len(self._table)).long().clamp_max(len(self._table) - 1)
        start, height, width = self._table[row].unbind(1)
        top = (u[:, 1, 0, 0] * (height - self.size + 1)).long()
        left = (u[:, 2, 0, 0] * (width - self.size + 1)).long()
        first = (start + top * width + left)[:, None, None]
        places = first + self._along[:, None] * width[:, None, None] + self._along
        crops = self._planes[:, places.clamp_max(self._planes.shape[1] - 1)].transpose(0, 1)
        for index, flipped in ((3, crops.mT), (4, None), (5, None)):
            if flipped is None:
                flipped = crops.flip(-1 if index == 4 else -2)
            crops = torch.where(u[:, index : index + 1] < 0.5, flipped, crops)
        return crops.float() / 255


def _scaled(picture: Tensor, scale: float, least: int) -> Tensor:
    if scale == 1:
        return picture
    shape = [max(least, round(scale * n)) for n in picture.shape[1:]]
    small = F.interpolate(
        picture[None].float(), size=shape, mode="bicubic", antialias=True, align_corners=False
    )
    return small[0].round().clamp(0, 255).byte()
