"""How bytes arrive from a network."""

from __future__ import annotations

import random
from collections.abc import Iterator


def pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cuts them at random, as a network does."""
    while data:
        cut = chance.choice([1, 2, 7, 100, 16384])
        yield data[:cut]
        data = data[cut:]
