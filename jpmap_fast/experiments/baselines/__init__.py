"""What others restore with, by DeepInverse, through the same ``restore``.

    from jpmap_fast.experiments.baselines import EPLL, load_mixture

    result = jpmap_fast.restore(y, operator, prior, sigma, method=EPLL(load_mixture("mnist")))

The prior gives the shape of the images alone. They need deepinv, the extra ``experiments``.
"""

from jpmap_fast.experiments.baselines.epll import EPLL
from jpmap_fast.experiments.baselines.mixture import fit_mixture, load_mixture, save_mixture
from jpmap_fast.experiments.baselines.network import load_network, save_network
from jpmap_fast.experiments.baselines.supervised import Supervised
from jpmap_fast.experiments.baselines.total_variation import TotalVariation
from jpmap_fast.experiments.baselines.tuned import tuned

__all__ = [
    "EPLL",
    "Supervised",
    "TotalVariation",
    "fit_mixture",
    "load_mixture",
    "load_network",
    "save_mixture",
    "save_network",
    "tuned",
]
