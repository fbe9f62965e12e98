"""Names of the patrol's tasks, apart from their bodies, so that enqueueing one does not import them."""

PATROL = "assets.patrol"
"""The task that begins a run, when one is due."""

PATROL_NOW = "assets.patrol_now"
"""The task of a run that an operator requested. Arguments: `dry_run`, `requested_by`."""
