"""Restorations as packages that run without Python; see ``Restorer.export``."""

from jpmap_fast.export.package import export_run

__all__ = ["export_run"]
