"""The plug-in for napari: widgets that denoise and inpaint layers, listed in ``napari.yaml``.

napari imports ``widgets`` when one is opened; ``planes``, what they do, needs no napari.
"""
