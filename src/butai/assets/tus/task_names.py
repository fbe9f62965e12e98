"""The name of the task that finishes an upload, and when it runs."""

from datetime import timedelta

FINISH = "assets.finish_upload"
"""The task that finishes a complete upload whose process died; its body is in `tasks`. Arguments: `upload_id`."""

FINISH_AFTER = timedelta(seconds=60)
"""Time that a process has to finish a complete upload, before another one does: reading 200 MiB back takes seconds."""
