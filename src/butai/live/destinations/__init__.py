"""Where a user's broadcasts may go: a platform's address and a sealed stream key."""
