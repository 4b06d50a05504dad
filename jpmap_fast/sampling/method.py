"""What a sampling method is: settings, and draws of the codes of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jpmap_fast._validate import count, counts
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import Weighted


@dataclass(frozen=True, kw_only=True)
class SamplingMethod(ABC):
    """How modes are looked for, which all methods do first.

    Args:
        starts: descents an image besides the one from JPMAP's code, >= 1: from the most probable of
            ``screen`` draws of the prior.
        screen: >= 1, fewer for large images (their decoded images take 32 MiB at most).
        more_starts: how many starts in all an image has whose misfit stays improbable.
    """

    starts: int = 3
    screen: int = 8192
    more_starts: tuple[int, ...] = (8, 34)

    def __post_init__(self) -> None:
        name = type(self).__name__
        count(f"{name}: starts", self.starts, 1)
        count(f"{name}: screen", self.screen, 1)
        counts(f"{name}: more_starts", self.more_starts, 1)

    @abstractmethod
    def draw(self, model: Model, modes: Modes, streams: Streams) -> tuple[Weighted, Modes]:
        """Weighted draws of p(z | y), and the modes that are known then.

        Args:
            model: of a batch.
            modes: that were found.
            streams: random numbers of the images.
        """

    def degrees_for(self, k: int) -> int:
        """Degrees of freedom of the Student-t laws about the modes, for codes of k entries.

        In many dimensions heavy tails hold most of the draws: in inpainting with k = 64 three to
        eight of a hundred count with 8 degrees, and about twenty with 30 and rounds of 512.
        """
        return max(8, k // 2)

    @property
    def kept_draws(self) -> int:
        """Draws an image whose decoded images may be kept until their weights are known."""
        return 0

    def complaints(self) -> dict[str, float]:
        """Limits that a status looks at: least ``ess``, largest ``pareto_k`` and ``r_hat``."""
        return {}
