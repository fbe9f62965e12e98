"""Is the host there, and which of its tracks go out: in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from butai.errors import Code
from butai.relay.presence import NOTHING, Presence
from butai.relay.timing import RelayTiming
from butai.relay.tracks import Choice, Offer, TrackSource, choose

TICK = RelayTiming().phase_every
BOTH = Choice("v", frozenset({"a"}), shown=True, heard=True)
PICTURE = Choice("v", shown=True)
SOUND = Choice(sounds=frozenset({"a"}), heard=True)
MUTED = Choice("v", frozenset({"a"}), muted=True)


class Watched:
    """A `Presence`, its time, and the phases that it went through."""

    def __init__(self, grace: float = 60, choice: Choice = BOTH) -> None:
        self.presence, self.now, self.choice = Presence(grace, "end", 0), 0.0, choice
        self.here = True
        self.said: list[tuple[str, Code | None]] = []

    def go_on(self, seconds: float, *, picture: float = 0, sound: float = 0) -> tuple[str, Code | None]:
        """Goes on, with pictures and sound at these intervals in seconds (0: none), and returns the last phase."""
        until, pictures, sounds = self.now + seconds, self.now, self.now
        while self.now < until - 1e-6:
            self.now += TICK
            self.presence.host(self.now, here=self.here, choice=self.choice if self.here else NOTHING)
            if picture and self.now - pictures >= picture - 1e-6:
                pictures = self.now
                self.presence.picture(self.now, self.choice.picture or "")
            if sound and self.now - sounds >= sound - 1e-6:
                sounds = self.now
                self.presence.sound(self.now)
            phase = self.presence.phase(self.now)
            if not self.said or self.said[-1] != phase:
                self.said.append(phase)
        return self.said[-1]


def test_waiting_then_live_then_lost_then_live() -> None:
    presence = Presence(60, "end", 0)
    assert presence.phase(1) == ("waiting", None)
    presence.host(2, here=True, choice=SOUND)
    assert presence.phase(2) == ("waiting", None)
    presence.sound(3)
    assert presence.phase(3) == ("live", None)
    assert presence.phase(4.9) == ("live", None)
    assert presence.phase(5.1) == ("lost", None)
    presence.sound(20)
    assert presence.phase(20) == ("live", None)


def test_a_host_that_left_is_lost_at_once() -> None:
    presence = Presence(60, "end", 0)
    presence.host(1, here=True, choice=BOTH)
    presence.picture(1, "v")
    assert presence.phase(1) == ("live", None)
    presence.host(1.1, here=False)
    assert presence.phase(1.1) == ("lost", None)


def test_the_grace_ends_it_counted_from_the_last_sign() -> None:
    presence = Presence(10, "end", 0)
    presence.host(5, here=True, choice=SOUND)
    presence.sound(5)
    assert presence.phase(5) == ("live", None)
    assert presence.phase(8) == ("lost", None)
    assert presence.phase(17.9) == ("lost", None)
    assert presence.phase(18) == ("ended", Code.SOURCE_ENDED)


def test_who_never_comes_ends_it_too() -> None:
    presence = Presence(10, "end", 0)
    assert presence.phase(9.9) == ("waiting", None)
    assert presence.phase(10)[0] == "ended"


def test_with_stay_it_never_ends() -> None:
    presence = Presence(10, "stay", 0)
    assert presence.phase(10_000) == ("waiting", None)
    presence.host(10_001, here=True, choice=SOUND)
    presence.sound(10_001)
    assert presence.phase(10_001) == ("live", None)
    presence.host(10_002, here=False)
    assert presence.phase(20_000) == ("lost", None)


def test_a_host_that_muted_everything_is_not_away() -> None:
    presence = Presence(10, "end", 0)
    presence.host(1, here=True, choice=BOTH)
    presence.picture(1, "v")
    assert presence.phase(1) == ("live", None)
    presence.host(1, here=True, choice=MUTED)
    for now in range(2, 500):
        assert presence.phase(now)[0] in ("live", "lost")
    # The grace begins when the tab is closed.
    presence.host(500, here=False)
    assert presence.phase(500) == ("lost", None)
    assert presence.phase(509.9) == ("lost", None)
    assert presence.phase(510) == ("ended", Code.SOURCE_ENDED)


def test_coming_back_gives_the_whole_grace_again() -> None:
    presence = Presence(10, "end", 0)
    presence.host(1, here=True, choice=BOTH)
    presence.picture(1, "v")
    assert presence.phase(1) == ("live", None)
    for gone in (11, 22, 33):
        presence.host(gone - 1, here=False)
        assert presence.phase(gone - 1) == ("lost", None)
        presence.host(gone, here=True, choice=BOTH)
        presence.picture(gone, "v")
        assert presence.phase(gone) == ("live", None)


def test_a_mute_of_both_is_lost_within_three_seconds_although_packets_come() -> None:
    watched = Watched()
    assert watched.go_on(10, picture=0.1, sound=0.1) == ("live", None)
    watched.choice = MUTED
    assert watched.go_on(3) == ("lost", None)
    assert watched.go_on(600) == ("lost", None)


@pytest.mark.parametrize("code", [Code.MEDIA_ENCRYPTED, Code.CODEC_UNSUPPORTED])
def test_a_picture_that_cannot_be_decoded_is_not_live_although_sound_comes(code: Code) -> None:
    watched = Watched(10, Choice(sounds=frozenset({"a"}), heard=True, picture_refused=code))
    assert watched.go_on(60, sound=0.1) == ("waiting", code)
    assert set(watched.said) == {("waiting", code)}


def test_a_show_whose_media_cannot_be_decoded_ends_after_the_grace_and_says_why() -> None:
    refused = Choice(picture_refused=Code.MEDIA_ENCRYPTED, sound_refused=Code.MEDIA_ENCRYPTED)
    watched = Watched(10, refused)
    assert watched.go_on(9) == ("waiting", Code.MEDIA_ENCRYPTED)
    assert watched.go_on(2) == ("ended", Code.MEDIA_ENCRYPTED)


def test_a_sound_that_cannot_be_decoded_is_told_beside_a_picture_that_can() -> None:
    watched = Watched(choice=Choice("v", shown=True, sound_refused=Code.MEDIA_ENCRYPTED))
    assert watched.go_on(5, picture=0.1) == ("live", Code.MEDIA_ENCRYPTED)


def test_a_picture_that_does_not_come_is_told_three_seconds_after_its_subscription() -> None:
    watched = Watched(10)
    watched.go_on(2.9, sound=0.1)
    assert watched.said[-1] == ("live", None) and len(watched.said) <= 2
    assert watched.go_on(0.3, sound=0.1) == ("lost", Code.NO_PICTURE)
    # Sound comes, so the host is there.
    assert watched.go_on(60, sound=0.1) == ("lost", Code.NO_PICTURE)
    assert watched.go_on(0.3, picture=0.1, sound=0.1) == ("live", None)


def test_after_a_change_of_scene_the_new_picture_must_come_too() -> None:
    watched = Watched()
    assert watched.go_on(10, picture=0.1, sound=0.1) == ("live", None)
    watched.choice = Choice("new", frozenset({"a"}), shown=True, heard=True)
    assert watched.go_on(2.9, sound=0.1) == ("live", None)
    assert watched.go_on(0.3, sound=0.1) == ("lost", Code.NO_PICTURE)
    assert watched.go_on(0.3, picture=0.1, sound=0.1) == ("live", None)


def test_a_picture_that_was_muted_need_not_come_and_is_there_when_it_is_not_muted_any_more() -> None:
    watched = Watched()
    assert watched.go_on(10, picture=0.1, sound=0.1) == ("live", None)
    watched.choice = Choice("v", frozenset({"a"}), heard=True)
    assert watched.go_on(60, sound=0.1) == ("live", None)
    watched.choice = BOTH
    assert watched.go_on(60, sound=0.1) == ("live", None)


def test_a_picture_that_stands_still_is_there_while_sound_comes_and_when_it_is_muted() -> None:
    watched = Watched()
    assert watched.go_on(10, picture=0.1, sound=0.1) == ("live", None)
    assert watched.go_on(60, sound=0.4) == ("live", None)
    watched.choice = Choice("v", frozenset({"a"}), shown=True)
    assert watched.go_on(600) == ("live", None)
    watched.here = False
    assert watched.go_on(0.1) == ("lost", None)


def test_a_host_that_was_killed_is_lost_after_two_seconds_of_what_moved() -> None:
    for picture, sound in ((0.1, 0.1), (0.1, 0), (0, 0.4)):
        watched = Watched(choice=BOTH if sound else PICTURE)
        watched.go_on(1, picture=0.1, sound=0.1 if sound else 0)
        assert watched.go_on(30, picture=picture, sound=sound) == ("live", None)
        assert watched.go_on(1.5) == ("live", None)
        assert watched.go_on(0.7) == ("lost", None), (picture, sound)


def test_a_still_picture_without_a_microphone_is_there_until_livekit_drops_its_host() -> None:
    for interval in (5, 0):
        watched = Watched(choice=PICTURE)
        watched.presence.picture(0, "v")
        assert watched.go_on(600, picture=interval) == ("live", None)
        assert watched.said == [("live", None)]
        watched.here = False
        assert watched.go_on(0.1) == ("lost", None)


def test_a_picture_that_stops_moving_is_there_again_once_livekit_would_have_dropped_its_host() -> None:
    watched = Watched(choice=PICTURE)
    assert watched.go_on(10, picture=0.1) == ("live", None)
    assert watched.go_on(25) == ("lost", None)
    assert watched.go_on(6) == ("live", None)
    assert watched.go_on(600) == ("live", None)


def video(sid: str, source: TrackSource = "camera", name: str = "", muted: bool = False) -> Offer:
    return Offer(sid, "video", source, name, muted)


def test_all_sound_and_one_picture() -> None:
    offers = [
        Offer("a1", "audio", "microphone", "", False),
        video("v1"),
        Offer("a2", "audio", "screen_share_audio", "music", True),
    ]
    choice = choose(offers, "any", "")
    assert (choice.picture, choice.sounds) == ("v1", {"a1", "a2"})
    assert choose([], "any", "stage") == Choice()


def test_the_camera_before_the_screen_before_the_unknown() -> None:
    offers = [video("u", "unknown"), video("s", "screen_share"), video("c")]
    assert choose(offers, "any", "").picture == "c"
    assert choose(offers[:2], "any", "").picture == "s"
    assert choose(offers[:1], "any", "").picture == "u"


def test_what_is_not_asked_for_is_not_shown() -> None:
    assert choose([video("s", "screen_share")], "camera", "").picture is None
    assert choose([video("c")], "screen_share", "").picture is None


def test_the_name_goes_before_all() -> None:
    offers = [video("stage", "screen_share", "stage", muted=True), video("c")]
    assert choose(offers, "camera", "stage").picture == "stage"
    assert choose(offers, "camera", "other").picture == "c"


def test_a_muted_picture_gives_way() -> None:
    assert choose([video("c", muted=True), video("s", "screen_share")], "any", "").picture == "s"


def test_the_newest_of_equals() -> None:
    assert choose([video("old"), video("new")], "any", "").picture == "new"


def sound(sid: str, source: TrackSource = "microphone", *, muted: bool = False, **more: Any) -> Offer:
    return Offer(sid, "audio", source, "", muted, **more)


@pytest.mark.parametrize(
    ("video_source", "heard"),
    [("camera", {"mic", "plain"}), ("screen_share", {"mic", "screen"}), ("any", {"mic", "plain", "screen"})],
)
def test_sound_that_is_not_asked_for_is_not_heard(video_source: str, heard: set[str]) -> None:
    offers = [sound("mic"), sound("screen", "screen_share_audio"), sound("plain", "unknown"), video("v")]
    assert choose(offers, video_source, "").sounds == heard
    assert choose(offers, video_source, "").muted is False
    # What is not asked for does not count as heard either.
    muted = [sound("mic", muted=True), sound("plain", "unknown", muted=True), sound("screen", "screen_share_audio")]
    choice = choose([*muted, video("v", muted=True)], "camera", "")
    assert choice.muted and not choice.heard and not choice.shown


@pytest.mark.parametrize(
    ("faulty", "code"),
    [
        ({"encrypted": True}, Code.MEDIA_ENCRYPTED),
        ({"encrypted": True, "codec": "video/H265"}, Code.MEDIA_ENCRYPTED),
        ({"codec": "video/H265"}, Code.CODEC_UNSUPPORTED),
        ({"codec": "video/h266"}, Code.CODEC_UNSUPPORTED),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_not_subscribed_to(faulty: dict[str, Any], code: Code) -> None:
    bad = replace(video("bad"), **faulty)
    choice = choose([bad, sound("mic")], "any", "")
    assert choice == Choice(sounds=frozenset({"mic"}), heard=True, picture_refused=code)
    # Another one that can be decoded goes out in its place.
    choice = choose([bad, video("s", "screen_share")], "any", "")
    assert (choice.picture, choice.shown, choice.picture_refused) == ("s", True, None)
    assert choose([replace(bad, muted=True)], "any", "").picture_refused is None
    # One that is not wanted is no fault.
    assert choose([bad, video("s", "screen_share")], "screen_share", "").picture_refused is None


@pytest.mark.parametrize(
    ("faulty", "code"), [({"encrypted": True}, Code.MEDIA_ENCRYPTED), ({"codec": "audio/x"}, Code.CODEC_UNSUPPORTED)]
)
def test_a_sound_that_cannot_be_decoded_never_goes_out(faulty: dict[str, Any], code: Code) -> None:
    choice = choose([sound("bad", **faulty), video("v")], "any", "")
    assert choice == Choice("v", shown=True, sound_refused=code)
    choice = choose([sound("bad", **faulty), sound("good")], "any", "")
    assert choice.sounds == {"good"} and choice.sound_refused is code


@pytest.mark.parametrize("codec", ["video/VP8", "video/vp9", "video/H264", "video/AV1", ""])
def test_the_codecs_of_browsers_are_decoded(codec: str) -> None:
    assert choose([replace(video("v"), codec=codec)], "any", "").picture == "v"
    assert choose([sound("a", codec="audio/opus"), sound("r", codec="audio/red")], "any", "").sounds == {"a", "r"}
