"""What the algorithms that descend J1 with candidates have in common: their settings."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.step import JointSettings

# Starts and encoder proposals of a prior that says nothing of its own: benchmarks/encoder.py.
STARTS, PROPOSALS = 2, 3


@cache
def _settings_of(kind: type[JointMAP]) -> list[str]:
    """The fields of an algorithm that are settings of the joint loop."""
    own = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # a dataclass where it is used
    return [f.name for f in fields(JointSettings) if f.name in own or hasattr(kind, f.name)]


class JointMAP(Algorithm):
    """An algorithm whose fields are, by their names, settings of the joint loop."""

    def settings(self) -> JointSettings:
        """What the loop needs of this; what it has no field for is as ``JointSettings`` says."""
        given = {name: self.value_of(name) for name in _settings_of(type(self))}
        return JointSettings(**given | {"z_solver": self.solver})

    @property
    def uses_encoder(self) -> bool:
        # Without proposals a projected descent begins at z = 0, which is the next start as well.
        proposes = self.value_of("n1") > 0 or self.value_of("n2") > 0
        return self.value_of("coupling") != "projected" or proposes
