"""The patrol: checks every hour that the store still has what the index says, without the right to list the bucket."""
