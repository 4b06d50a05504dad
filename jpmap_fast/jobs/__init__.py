"""Work as data: a request in, a report out. Command line, web page and workers are doors to it.

Nothing here prints, reads arguments of a process, or ends one.
"""

from jpmap_fast.jobs._prior_choice import with_prior
from jpmap_fast.jobs._restore_job import run
from jpmap_fast.jobs.pictures import RestoredPicture, Restoring, restore_picture
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest

__all__ = [
    "PictureReport",
    "RestoreReport",
    "RestoreRequest",
    "RestoredPicture",
    "Restoring",
    "restore_picture",
    "run",
    "with_prior",
]
