"""Names of the patrol's tasks, for those who enqueue them; the bodies are in `butai.assets.tasks`, which sits above."""

RECHECK = "assets.recheck"
"""Looks for a few assets at once. Arguments: `asset_ids`."""

PATROL = "assets.patrol"
"""A round, when one is due."""

PATROL_NOW = "assets.patrol_now"
"""A round because somebody asked. Arguments: `dry_run`, `requested_by`."""
