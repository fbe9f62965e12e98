"""Is the host there, and which of its tracks go out: in virtual time."""

from __future__ import annotations

from butai.relay.presence import Presence
from butai.relay.tracks import Offer, TrackSource, choose


def test_waiting_then_live_then_lost_then_live() -> None:
    presence = Presence(60, "end", 0)
    assert presence.phase(1) == "waiting"
    presence.host(here=True, muted=False)
    assert presence.phase(2) == "waiting"
    presence.media(3)
    assert presence.phase(3) == "live"
    assert presence.phase(4.9) == "live"
    assert presence.phase(5.1) == "lost"
    presence.media(20)
    assert presence.phase(20) == "live"


def test_a_host_that_left_is_lost_at_once() -> None:
    presence = Presence(60, "end", 0)
    presence.host(here=True, muted=False)
    presence.media(1)
    presence.host(here=False, muted=False)
    assert presence.phase(1.1) == "lost"


def test_the_grace_ends_it_counted_from_the_last_sign() -> None:
    presence = Presence(10, "end", 0)
    presence.host(here=True, muted=False)
    presence.media(5)
    assert presence.phase(5) == "live"
    assert presence.phase(8) == "lost"
    assert presence.phase(17.9) == "lost"
    assert presence.phase(18) == "ended"


def test_who_never_comes_ends_it_too() -> None:
    presence = Presence(10, "end", 0)
    assert presence.phase(9.9) == "waiting"
    assert presence.phase(10) == "ended"


def test_with_stay_it_never_ends() -> None:
    presence = Presence(10, "stay", 0)
    assert presence.phase(10_000) == "waiting"
    presence.host(here=True, muted=False)
    presence.media(10_001)
    presence.host(here=False, muted=False)
    assert presence.phase(20_000) == "lost"


def test_a_host_that_muted_everything_is_not_away() -> None:
    presence = Presence(10, "end", 0)
    presence.host(here=True, muted=False)
    presence.media(1)
    presence.host(here=True, muted=True)
    for now in range(2, 500):
        assert presence.phase(now) in ("live", "lost")
    # The grace begins when the tab is closed.
    presence.host(here=False, muted=False)
    assert presence.phase(500) == "lost"
    assert presence.phase(509.9) == "lost"
    assert presence.phase(510) == "ended"


def test_coming_back_gives_the_whole_grace_again() -> None:
    presence = Presence(10, "end", 0)
    presence.host(here=True, muted=False)
    presence.media(1)
    assert presence.phase(1) == "live"
    for gone in (11, 22, 33):
        presence.host(here=False, muted=False)
        assert presence.phase(gone - 1) == "lost"
        presence.host(here=True, muted=False)
        presence.media(gone)
        assert presence.phase(gone) == "live"


def video(sid: str, source: TrackSource = "camera", name: str = "", muted: bool = False) -> Offer:
    return Offer(sid, "video", source, name, muted)


def test_all_sound_and_one_picture() -> None:
    offers = [
        Offer("a1", "audio", "microphone", "", False),
        video("v1"),
        Offer("a2", "audio", "screen_share_audio", "music", True),
    ]
    assert choose(offers, "any", "") == ("v1", {"a1", "a2"})
    assert choose([], "any", "stage") == (None, set())


def test_the_camera_before_the_screen_before_the_unknown() -> None:
    offers = [video("u", "unknown"), video("s", "screen_share"), video("c")]
    assert choose(offers, "any", "")[0] == "c"
    assert choose(offers[:2], "any", "")[0] == "s"
    assert choose(offers[:1], "any", "")[0] == "u"


def test_what_is_not_asked_for_is_not_shown() -> None:
    assert choose([video("s", "screen_share")], "camera", "")[0] is None
    assert choose([video("c")], "screen_share", "")[0] is None


def test_the_name_goes_before_all() -> None:
    offers = [video("stage", "screen_share", "stage", muted=True), video("c")]
    assert choose(offers, "camera", "stage")[0] == "stage"
    assert choose(offers, "camera", "other")[0] == "c"


def test_a_muted_picture_gives_way() -> None:
    assert choose([video("c", muted=True), video("s", "screen_share")], "any", "")[0] == "s"


def test_the_newest_of_equals() -> None:
    assert choose([video("old"), video("new")], "any", "")[0] == "new"
