"""Restoration algorithms: loops over candidates, coupling weights and stopping tests."""

from jpmap_fast.algorithms.admm import ADMM, LinearisedADMM
from jpmap_fast.algorithms.alternate_convex_search import AlternateConvexSearch
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.csgm import CSGM
from jpmap_fast.algorithms.encoder_continuation import EncoderContinuation
from jpmap_fast.algorithms.hierarchical_jpmap import HierarchicalJPMAP
from jpmap_fast.algorithms.jpmap import JPMAP
from jpmap_fast.algorithms.map_z import MAPz, MAPzSplitting
from jpmap_fast.algorithms.monitor import History, Monitor, Progress
from jpmap_fast.algorithms.outcome import STATUS_TEXT, Outcome
from jpmap_fast.algorithms.patch_jpmap import PatchJPMAP
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.pnp_admm import PnPADMM, largest_weight
from jpmap_fast.algorithms.problem import Problem

# What `restore(method=...)` understands as a name.
ALGORITHMS: dict[str, type[Algorithm]] = {
    "jpmap": JPMAP,
    "map-z": MAPz,
    "map-z-splitting": MAPzSplitting,
    "admm": ADMM,
    "linearised-admm": LinearisedADMM,
    "csgm": CSGM,
    "alternate-convex-search": AlternateConvexSearch,
    "encoder": EncoderContinuation,
    "hierarchical-jpmap": HierarchicalJPMAP,
    "patch-jpmap": PatchJPMAP,
}

__all__ = [
    "ADMM",
    "ALGORITHMS",
    "CSGM",
    "JPMAP",
    "STATUS_TEXT",
    "Algorithm",
    "AlternateConvexSearch",
    "EncoderContinuation",
    "Estimate",
    "HierarchicalJPMAP",
    "History",
    "LinearisedADMM",
    "MAPz",
    "MAPzSplitting",
    "Monitor",
    "Outcome",
    "PatchJPMAP",
    "PixelSpace",
    "PnPADMM",
    "Problem",
    "Progress",
    "largest_weight",
]
