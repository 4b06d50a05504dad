"""Work as data: a request in, a report out. Command line, web page and workers are doors to it.

Nothing here prints, reads arguments of a process, or ends one.
"""

from jpmap_fast.jobs._prior_choice import with_prior
from jpmap_fast.jobs._restore_job import run
from jpmap_fast.jobs._restored import RestoredPicture
from jpmap_fast.jobs._sample_job import run_sampling
from jpmap_fast.jobs.pictures import Restoring, restore_picture
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.jobs.sample_request import SampleRequest

__all__ = [
    "PictureReport",
    "RestoreReport",
    "RestoreRequest",
    "RestoredPicture",
    "Restoring",
    "SampleRequest",
    "restore_picture",
    "run",
    "run_sampling",
    "with_prior",
]
