"""Brings each broadcast to what its host wants: pure functions decide, the reconciler acts."""
