"""The machine that all tables of states share; each table has a walk of its own."""

from __future__ import annotations

from enum import StrEnum

import pytest

from butai.state_tables import IllegalMove, StateTable


class Light(StrEnum):
    RED = "red"
    GREEN = "green"


class Press(StrEnum):
    MAKE = "make"
    TOGGLE = "toggle"
    STOP = "stop"


class IllegalPress(IllegalMove):
    pass


LIGHTS = StateTable[Light, Press, Light | None](
    "a light",
    IllegalPress,
    {
        (None, Press.MAKE): Light.RED,
        (Light.RED, Press.TOGGLE): Light.GREEN,
        (Light.GREEN, Press.TOGGLE): Light.RED,
        (Light.RED, Press.STOP): None,
        (Light.GREEN, Press.STOP): None,
    },
)


def test_a_move_without_an_arrow_says_what_cannot_happen_to_what() -> None:
    assert LIGHTS.after(None, Press.MAKE) is Light.RED
    assert LIGHTS.after(Light.RED, Press.STOP) is None
    with pytest.raises(IllegalPress, match=r"^make cannot happen to a light that is red$"):
        LIGHTS.after(Light.RED, Press.MAKE)
    with pytest.raises(IllegalPress, match=r"^stop cannot happen to a light that is absent$"):
        LIGHTS.after(None, Press.STOP)


def test_a_guard_needs_one_state_after_its_trigger() -> None:
    assert LIGHTS.arrows(Press.STOP) == ({Light.RED, Light.GREEN}, None)
    with pytest.raises(ValueError, match="too many values"):
        LIGHTS.arrows(Press.TOGGLE)
