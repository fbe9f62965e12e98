"""Names of the patrol's tasks."""

PATROL = "assets.patrol"
"""A round, when one is due."""

PATROL_NOW = "assets.patrol_now"
"""A round because somebody asked. Arguments: `dry_run`, `requested_by`."""
