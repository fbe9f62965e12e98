"""Names and times that the parts of resumable uploads share."""

from datetime import timedelta

FINISH = "assets.finish_upload"
"""The task that finishes what a dead process left whole; its body is in `tasks`. Arguments: `upload_id`."""

FINISH_AFTER = timedelta(seconds=60)
"""How long a process has to finish an upload that is whole, before another one does: reading 200 MiB back takes seconds."""
