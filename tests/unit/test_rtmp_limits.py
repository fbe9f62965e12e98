"""How much a platform may send to a publisher, and leave unread."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from butai.errors import Code
from butai.relay.rtmp.connection import check_peer_limits
from butai.relay.rtmp.failures import PublishError


def writer(unread: int) -> asyncio.StreamWriter:
    """One with so many bytes that the platform has not read."""
    return cast("Any", SimpleNamespace(transport=SimpleNamespace(get_write_buffer_size=lambda: unread)))


@pytest.mark.parametrize("seconds", [0, 0.5, 20])
def test_a_platform_may_send_half_a_mebibyte_and_as_much_again_each_second(seconds: float) -> None:
    most = int(512 * 1024 * (1 + seconds))
    check_peer_limits(writer(0), most, seconds)
    with pytest.raises(PublishError) as caught:
        check_peer_limits(writer(0), most + 1, seconds)
    assert caught.value.code == Code.DESTINATION_UNREACHABLE


def test_a_platform_may_leave_four_mebibytes_unread() -> None:
    check_peer_limits(writer(4 * 1024**2), 0, 0)
    with pytest.raises(PublishError) as caught:
        check_peer_limits(writer(4 * 1024**2 + 1), 0, 0)
    assert caught.value.code == Code.DESTINATION_STALLED
