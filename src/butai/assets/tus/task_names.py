"""The name of the task that finishes an upload, and when it runs."""

from datetime import timedelta

FINISH = "assets.finish_upload"
"""The task that finishes an upload that is whole and whose process died; its body is in `tasks`. Arguments: `upload_id`."""

FINISH_AFTER = timedelta(seconds=60)
"""Time that a process has to finish an upload that is whole, before another one does: reading 200 MiB back takes seconds."""
