"""The patrol: what the store has lost is found, and nothing that is there is called lost."""
