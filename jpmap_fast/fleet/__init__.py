"""A folder restored by a fleet: workers on one machine or many, each with a prior of its own.

It needs Ray Data, the extra ``ray``, which is imported where a fleet is started.
"""

from jpmap_fast.fleet.run import run_fleet
from jpmap_fast.fleet.settings import FleetSettings

__all__ = ["FleetSettings", "run_fleet"]
