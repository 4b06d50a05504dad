"""DeepInverse interoperability: its physics as operators, restorations as its reconstructor.

``restore(y, physics, prior)``, ``Reconstructor(prior)(y, physics)`` and
``Sampler(prior).sample(y, physics)`` are what to use;
``as_operator`` is the translation by itself. Made for deepinv 0.5, the extra ``[deepinv]``; the
modules that need it are imported when a physics comes.
"""

from jpmap_fast.deepinv.operator import as_operator
from jpmap_fast.deepinv.reconstructor import Reconstructor
from jpmap_fast.deepinv.sampler import Sampler

__all__ = ["Reconstructor", "Sampler", "as_operator"]
