"""Names of the patrol's tasks, apart from their bodies, so that enqueueing one does not import them."""

PATROL = "assets.patrol"
"""A run, when one is due."""

PATROL_NOW = "assets.patrol_now"
"""A run that an operator requested. Arguments: `dry_run`, `requested_by`."""
