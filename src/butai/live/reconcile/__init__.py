"""Makes each broadcast what its host wants: decided by pure functions, done by the reconciler."""
