"""The picture on air: sizes, shapes, turns."""

from __future__ import annotations

import numpy as np
import pytest

from butai.relay.picture import Screen, fitting
from tests.relay_stage import luma
from tests.studio_host import TestCard, read_stamp

AT = 1_700_000_000.123


def plain(width: int, height: int, y: int = 200) -> bytes:
    half = ((width + 1) // 2) * ((height + 1) // 2)
    return bytes([y]) * (width * height) + bytes([90]) * half + bytes([160]) * half


def test_black_before_the_first_picture() -> None:
    frame = Screen(640, 360).look()
    assert (frame.width, frame.height, frame.format.name) == (640, 360, "yuv420p")
    assert (luma(frame) == 16).all()


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    screen = Screen(640, 360)
    data = TestCard(640, 360).draw(AT, 77)
    screen.show(640, 360, data)
    assert luma(screen.look()).tobytes() == bytes(data[: 640 * 360])


def test_the_last_picture_stays_and_is_made_once() -> None:
    screen = Screen(640, 360)
    screen.show(320, 180, TestCard(320, 180).draw(AT, 1))
    assert screen.look() is screen.look()


def test_frames_that_come_unevenly_are_all_seen() -> None:
    screen, seen = Screen(640, 360), []
    number = 0
    for come in (1, 0, 2, 1, 0, 2, 0, 2, 1, 1):
        for _ in range(come):
            screen.show(640, 360, TestCard(640, 360).draw(AT, number))
            number += 1
        seen.append(read_stamp(luma(screen.look()))[1])
    assert sorted(set(seen)) == list(range(max(seen) + 1))
    assert max(seen) >= number - 2


def test_of_too_many_frames_the_newest_are_seen() -> None:
    screen = Screen(640, 360)
    for number in range(10):
        screen.show(640, 360, TestCard(640, 360).draw(AT, number))
    assert [read_stamp(luma(screen.look()))[1] for _ in range(3)] == [8, 9, 9]


@pytest.mark.parametrize("size", [(1280, 720), (320, 180), (1920, 1080), (854, 480), (961, 541)])
def test_a_picture_of_the_same_shape_fills_the_screen(size: tuple[int, int]) -> None:
    screen = Screen(640, 360)
    even = size[0] // 2 * 2, size[1] // 2 * 2
    card = bytes(TestCard(*even).draw(AT, 5))
    if even != size:
        planes = [np.frombuffer(card, np.uint8)[: even[0] * even[1]].reshape(even[1], even[0])]
        chroma = np.frombuffer(card, np.uint8)[even[0] * even[1] :].reshape(2, even[1] // 2, even[0] // 2)
        planes += list(chroma)
        card = b"".join(np.pad(plane, ((0, 1), (0, 1))).tobytes() for plane in planes)
    screen.show(*size, card)
    frame = screen.look()
    assert (frame.width, frame.height) == (640, 360)
    assert read_stamp(luma(frame))[:2] == (int(AT * 1000) & 0xFFFFFFFF, 5)


def test_a_narrow_picture_stands_between_black_bars() -> None:
    screen = Screen(640, 360)
    screen.show(360, 640, plain(360, 640))
    picture = luma(screen.look())
    width, _ = fitting(360, 640, 640, 360)
    left = (640 - width) // 4 * 2
    assert (picture[:, : left - 2] == 16).all()
    assert (picture[:, left + width + 2 :] == 16).all()
    assert (picture[:, left + 4 : left + width - 4] > 190).all()


def test_a_wide_picture_stands_between_black_bars() -> None:
    screen = Screen(640, 360)
    screen.show(1000, 200, plain(1000, 200))
    picture = luma(screen.look())
    assert (picture[:100] == 16).all() and (picture[-100:] == 16).all()
    assert (picture[150:210] > 190).all()


def test_a_telephone_held_upright_is_turned() -> None:
    screen = Screen(200, 100)
    upright = np.zeros((200, 100), np.uint8)
    upright[:100] = 230  # the upper half is white
    screen.show(100, 200, upright.tobytes() + bytes([128]) * 10000, 1)
    picture = luma(screen.look())
    # A quarter turn clockwise: what was above is on the right.
    assert (picture[:, 110:] == 230).all() and (picture[:, :90] == 0).all()


def test_the_black_specks_of_livekit_are_not_shown() -> None:
    screen = Screen(640, 360)
    screen.show(640, 360, plain(640, 360))
    for size in (2, 8):
        assert not screen.show(size, size, plain(size, size, 16))
    for _ in range(3):
        assert (luma(screen.look()) == 200).all()


def test_a_size_that_cannot_be_scaled_leaves_the_picture_before_it() -> None:
    screen = Screen(640, 360)
    screen.show(640, 360, plain(640, 360))
    screen.look()
    assert screen.show(16, 16384, plain(16, 16384, 16))
    assert screen.look().width == 640


def test_too_few_bytes_are_refused() -> None:
    screen = Screen(640, 360)
    with pytest.raises(ValueError, match="not an I420 picture"):
        screen.show(640, 480, b"\0" * 1000)
    assert (luma(screen.look()) == 16).all()


@pytest.mark.parametrize("size", [(1, 10000), (10000, 1), (3, 3), (1279, 721), (16, 9)])
def test_what_fits_is_even_and_inside(size: tuple[int, int]) -> None:
    width, height = fitting(*size, 1280, 720)
    assert width % 2 == height % 2 == 0
    assert 2 <= width <= 1280 and 2 <= height <= 720
