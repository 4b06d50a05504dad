"""What an experiment gets: its settings, its folder, and steps that are not done twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jpmap_fast._files import written_whole
from jpmap_fast.experiments.section import FigureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """How large, where and on what.

    Attributes:
        quick: reduced size, for a CPU.
        device: "cpu" or "cuda".
        seed: of masks, matrices, noise and random starts.
        images: test images an experiment restores, in place of its own number; None for that.
        faces: 64 x 64 colour faces, a folder or a file that ``load_images`` reads; None for the
            portrait that comes with the package.
    """

    quick: bool = True
    device: str = "cpu"
    seed: int = 0
    images: int | None = None
    faces: str | None = None

    def pick(self, quick: int, full: int) -> int:
        """One of two sizes."""
        return quick if self.quick else full

    def number(self, quick: int, full: int) -> int:
        """How many test images: one of two sizes unless ``images`` says otherwise."""
        return self.pick(quick, full) if self.images is None else self.images


class Context:
    """Settings, folder and finished steps of one experiment.

    Args:
        settings: of the run.
        folder: for this experiment's figures, made if need be; steps go into its folder ``steps``.
        announce: told the name of each step.
    """

    def __init__(
        self, settings: Settings, folder: Path, announce: Callable[[str], None] = lambda name: None
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.seconds = 0.0
        self._announce = announce
        self._steps = folder / "steps"
        self._steps.mkdir(parents=True, exist_ok=True)

    @property
    def quick(self) -> bool:
        """Whether sizes are reduced."""
        return self.settings.quick

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return torch.device(self.settings.device)

    def generator(self, offset: int = 0) -> torch.Generator:
        """A generator on the CPU, the same at every call: draws do not depend on the device."""
        return torch.Generator().manual_seed(self.settings.seed + offset)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``work`` returns, from disk if an earlier, interrupted run got so far.

        Args:
            name: of the step, unique in the experiment.
            work: returns tensors (kept on the CPU), numbers, strings, None, and lists and
                dictionaries of them.
        """
        path = self._steps / (re.sub(r"[^\w.=-]+", "_", name) + ".pt")
        if path.is_file():
            content = torch.load(path, weights_only=True)
        else:
            self._announce(name)
            begin = time.perf_counter()
            result = _on_cpu(work())
            content = {"result": result, "seconds": time.perf_counter() - begin}
            with written_whole(path) as part:
                torch.save(content, part)
        self.seconds += content["seconds"]
        found: dict[str, Any] = content["result"]
        return found

    def save(
        self, stem: str, figure: Figure, caption: str, *, pictures: bool = False
    ) -> FigureFile:
        """Write a figure as PNG and SVG into the folder."""
        from jpmap_fast.experiments.style import write

        write(figure, self.folder / stem)
        return FigureFile(stem, caption, pictures)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_on_cpu(item) for item in value]
    return value
