"""Where index and store disagree, and what an operator does about it."""
