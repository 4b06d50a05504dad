"""Restorations in the conventions of scikit-image: arrays in, arrays out, channels last.

``denoise(image)``, ``inpaint(image, mask)`` and ``deblur(image, psf)`` stand beside
``skimage.restoration``, whose rules for types, channels and masks they keep. scikit-image itself is
not needed.
"""

from jpmap_fast.skimage.restoration import deblur, denoise, inpaint

__all__ = ["deblur", "denoise", "inpaint"]
