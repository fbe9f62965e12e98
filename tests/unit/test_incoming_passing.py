"""The sources of a broadcast in time that is only numbers: who is on air, what is known when, and what fills the holes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import av
import pytest
from av import CodecContext
from av.audio.codeccontext import AudioCodecContext

from butai.errors import Code
from butai.relay.incoming.passing import MISSING_AFTER_MS, QUIET_AFTER_MS, Passing
from butai.relay.incoming.silence import OWN, silence
from butai.relay.incoming.tags import SourceRefused
from butai.relay.incoming.wire import Hello
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp.server_session import Media, Metadata
from tests.unit.test_incoming_reader import ASC, HD, IDR, SD, SLICE, header, picture, sound

FRAME_MS = 33
"""Between two pictures; a key frame comes each 30 of them."""
OBS, PHONE = Hello("encoder", "k1", "OBS", since=5.0), Hello("encoder", "k2", "phone")


class Encoder:
    """An encoder that sends in real time on one link, with time stamps of its own."""

    def __init__(
        self, show: Show, link: int, hello: Hello = OBS, *, stamp: int = 77_000, extradata: bytes = HD
    ) -> None:
        self.show, self.link, self.stamp = show, link, stamp
        self.number = 0
        self.sounds = True
        self.pictures = True
        self.replaced = show.passing.open(link, hello, show.now)
        show.take(link, Metadata({"framerate": 30.0}))
        show.take(link, Media("video", stamp, header(extradata)))
        show.take(link, Media("audio", stamp, b"\xaf\0" + ASC))

    def send(self) -> None:
        at = self.stamp + self.number * FRAME_MS
        keyframe = self.number % 30 == 0
        if self.pictures:
            unit = IDR if keyframe else SLICE
            self.show.take(self.link, Media("video", at, picture(unit, keyframe=keyframe, offset=66)))
        if self.sounds:
            self.show.take(self.link, Media("audio", at, sound()))
        self.number += 1


class Show:
    """A broadcast's sources, and all that went to its outputs."""

    def __init__(self, grace: int = 60_000, on_lost: str = "end", now: int = 1_000_000) -> None:
        self.now = now
        self.passing = Passing(grace, "stay" if on_lost == "stay" else "end", now)
        self.out: list[Packet] = []

    def take(self, link: int, frame: Media | Metadata) -> None:
        try:
            self.out += self.passing.take(link, frame, self.now)
        except SourceRefused as error:
            self.passing.refuse(link, error, self.now)
            raise

    def play(self, ms: int, *encoders: Encoder) -> list[Packet]:
        """Lets the time pass, in which these send. Returns what went out meanwhile."""
        before = len(self.out)
        for _ in range(ms // FRAME_MS):
            for encoder in encoders:
                encoder.send()
            self.out += self.passing.tick(self.now)
            self.now += FRAME_MS
        return self.out[before:]

    @property
    def phase(self) -> tuple[str, Code | None]:
        return self.passing.phase(self.now)[:2]


def of(kind: str, packets: Sequence[Packet]) -> list[Packet]:
    return [one for one in packets if one.kind == kind]


def largest_hole(packets: Sequence[Packet]) -> int:
    return max(after.dts - before.dts for before, after in itertools.pairwise(packets))


def assert_times_rise(packets: Sequence[Packet]) -> None:
    for kind in ("video", "audio"):
        times = [one.dts for one in of(kind, packets)]
        assert times == sorted(times)
        assert all(one.pts >= one.dts for one in packets)


def test_a_source_is_live_from_its_first_key_frame_on_and_closed_at_once() -> None:
    show = Show()
    assert show.phase == ("waiting", None) and show.passing.details(show.now) is None
    encoder = Encoder(show, 1)
    encoder.number = 1
    show.play(20 * FRAME_MS, encoder)
    assert show.phase == ("waiting", None) and show.out == []
    show.play(7000, encoder)
    assert show.phase == ("live", None)
    found = show.passing.details(show.now)
    assert found is not None
    assert (found.kind, found.id, found.label, found.since) == ("encoder", "k1", "OBS", 5.0)
    assert (found.codec, found.width, found.height, found.sound_rate) == ("H.264", 1920, 1080, 48000)
    assert found.keyframe_s == 1.0 and 29 < found.fps <= 31 and found.warnings == []
    show.passing.close(1, show.now)
    assert show.phase == ("lost", Code.SOURCE_CLOSED)
    assert show.passing.details(show.now) is None


def test_a_link_that_sends_nothing_is_quiet_after_2_5_seconds_and_a_hole_of_2_is_none() -> None:
    show = Show()
    encoder = Encoder(show, 1)
    show.play(2000, encoder)
    assert show.play(2000) == [], "a hole that may fill itself is not filled"
    encoder.number += 2000 // FRAME_MS
    show.play(1000, encoder)
    assert show.phase == ("live", None)
    show.play(QUIET_AFTER_MS - FRAME_MS)
    assert show.phase == ("live", None)
    show.play(3 * FRAME_MS)
    assert show.phase == ("lost", Code.SOURCE_QUIET)
    # It may send again, from a key frame on.
    encoder.number = 31
    assert all(one.keyframe for one in show.play(10 * FRAME_MS, encoder)), "filler alone"
    assert show.phase[0] == "lost"
    encoder.number = 60
    show.play(1000, encoder)
    assert show.phase == ("live", None)
    assert_times_rise(show.out)


def test_a_source_that_is_away_is_filled_with_its_last_key_frame_and_silence() -> None:
    show = Show()
    show.play(1500, Encoder(show, 1))
    keyframe = [one for one in show.out if one.keyframe and one.kind == "video"][-1]
    show.passing.close(1, show.now)
    filler = show.play(20_000)
    pictures, sounds = of("video", filler), of("audio", filler)
    assert 38 <= len(pictures) <= 41
    assert all(one.data == keyframe.data and one.format == keyframe.format and one.keyframe for one in pictures)
    assert 900 < len(sounds) < 960 and largest_hole(sounds) <= 22
    assert all(isinstance(one.format, AudioFormat) and one.format.asc == ASC for one in sounds)
    assert abs(show.out[-1].dts - show.now) < 600
    assert_times_rise(show.out)
    assert show.passing.kept()[0].data == keyframe.data, "a new output begins with the filler"


def test_five_sources_one_after_another_are_one_time_line() -> None:
    show = Show()
    for link in range(5):
        encoder = Encoder(show, link, stamp=2**32 - 500 + link * 10_000_000 % 2**31, extradata=(HD, SD)[link % 2])
        show.play(2500, encoder)
        assert show.phase == ("live", None)
        show.passing.close(link, show.now)
        show.play(1200 + 700 * link)
    assert_times_rise(show.out)
    assert largest_hole(of("video", show.out)) <= 600
    sizes = {one.format.width for one in show.out if isinstance(one.format, VideoFormat)}
    assert sizes == {1920, 426}


@pytest.mark.parametrize(("on_lost", "ends"), [("end", True), ("stay", False)])
def test_the_grace_ends_a_broadcast_whose_source_stays_away(on_lost: str, ends: bool) -> None:
    show = Show(grace=10_000, on_lost=on_lost)
    show.play(1000, Encoder(show, 1))
    show.passing.close(1, show.now)
    show.play(9900)
    assert show.phase == ("lost", Code.SOURCE_CLOSED)
    show.play(300)
    assert show.phase == (("ended", Code.SOURCE_ENDED) if ends else ("lost", Code.SOURCE_CLOSED))


def test_a_source_that_never_comes_ends_as_no_media() -> None:
    show = Show(grace=10_000)
    show.play(10_100)
    assert show.phase == ("ended", Code.NO_MEDIA)


def test_a_source_without_sound_gets_silence_and_is_told() -> None:
    show = Show()
    encoder = Encoder(show, 1)
    encoder.sounds = False
    first = show.play(MISSING_AFTER_MS - 100, encoder)
    assert show.phase == ("live", None)
    assert largest_hole(of("audio", first)) <= 22 and len(of("audio", first)) > 150
    show.play(300, encoder)
    assert show.phase == ("live", Code.NO_AUDIO)
    encoder.sounds = True
    show.play(1000, encoder)
    assert show.phase == ("live", None)
    assert_times_rise(show.out)


def test_a_source_without_a_picture_is_told() -> None:
    show = Show()
    encoder = Encoder(show, 1)
    encoder.pictures = False
    show.play(MISSING_AFTER_MS + 100, encoder)
    assert show.phase == ("waiting", Code.NO_PICTURE) and show.out == []
    encoder.pictures, encoder.number = True, 300
    show.play(1000, encoder)
    assert show.phase == ("live", None)
    encoder.pictures = False
    show.play(MISSING_AFTER_MS + 100, encoder)
    assert show.phase == ("live", Code.NO_PICTURE)


def test_a_second_encoder_stands_by_and_follows_from_its_next_key_frame_on() -> None:
    show = Show()
    first, second = Encoder(show, 1), Encoder(show, 2, PHONE, extradata=SD)
    show.play(1500, first, second)
    details = show.passing.details(show.now)
    assert details is not None and (details.id, details.standby, details.width) == ("k1", 1, 1920)
    show.passing.close(1, show.now)
    assert show.phase == ("lost", Code.SOURCE_CLOSED)
    show.play(1000, second)
    assert show.phase == ("live", None)
    details = show.passing.details(show.now)
    assert details is not None and (details.id, details.standby, details.width) == ("k2", 0, 426)
    assert_times_rise(show.out)


def test_a_second_encoder_follows_one_that_hangs() -> None:
    show = Show()
    first, second = Encoder(show, 1), Encoder(show, 2, PHONE)
    show.play(1500, first, second)
    show.play(QUIET_AFTER_MS + 1100, second)
    details = show.passing.details(show.now)
    assert show.phase == ("live", None) and details is not None and details.id == "k2"


def test_a_newer_link_of_the_same_publisher_takes_over() -> None:
    show = Show()
    show.play(1500, Encoder(show, 1))
    Encoder(show, 3, PHONE)
    newer = Encoder(show, 2)
    assert newer.replaced == 1
    show.play(1000, newer)
    details = show.passing.details(show.now)
    assert show.phase == ("live", None) and details is not None and (details.id, details.standby) == ("k1", 1)
    assert show.passing.take(1, Media("video", 0, picture(IDR, keyframe=True)), show.now) == []


def test_what_cannot_be_passed_on_is_refused_and_told_until_another_one_comes() -> None:
    show = Show(grace=1000)
    Encoder(show, 1)
    with pytest.raises(SourceRefused, match="HEVC"):
        show.take(1, Media("video", 0, b"\x90hvc1xxxx"))
    assert show.phase == ("waiting", Code.CODEC_UNSUPPORTED)
    show.play(1100)
    assert show.phase == ("ended", Code.CODEC_UNSUPPORTED)


def test_one_that_stands_by_is_refused_before_it_is_needed_and_not_the_one_on_air() -> None:
    show = Show()
    first = Encoder(show, 1)
    Encoder(show, 2, PHONE)
    show.play(500, first)
    with pytest.raises(SourceRefused, match="MP3"):
        show.take(2, Media("audio", 0, b"\x2f\xff"))
    show.play(500, first)
    assert show.phase == ("live", None)


def test_links_have_a_bound() -> None:
    show = Show()
    for link in range(8):
        show.passing.open(link, Hello("encoder", f"k{link}"), show.now)
    with pytest.raises(SourceRefused) as refused:
        show.passing.open(9, Hello("encoder", "more"), show.now)
    assert refused.value.code is Code.TOO_MANY_CONNECTIONS


@pytest.mark.parametrize(
    ("asc", "layout", "rate"),
    [
        ("1190", "stereo", 48000),
        ("1188", "mono", 48000),
        ("1210", "stereo", 44100),
        ("1208", "mono", 44100),
        ("1590", "stereo", 8000),
        ("11b0", "5.1", 48000),
        ("2b920800", "stereo", 44100),
        ("eb8a0800", "stereo", 44100),
    ],
)
def test_silence_is_decoded_as_silence_without_an_error(asc: str, layout: str, rate: int) -> None:
    known = silence(AudioFormat(0, 0, 0, bytes.fromhex(asc)))
    assert known is not None
    data, length = known
    decoder = CodecContext.create("aac", "r")
    assert isinstance(decoder, AudioCodecContext)
    decoder.extradata, decoder.options = bytes.fromhex(asc), {"err_detect": "explode"}
    frames = [frame for _ in range(10) for frame in decoder.decode(av.Packet(data))]
    assert len(frames) >= 9
    for frame in frames:
        assert (frame.layout.name, frame.sample_rate) == (layout, rate)
        assert not frame.to_ndarray().any()
        assert frame.samples * 1000 / frame.sample_rate == pytest.approx(length)


@pytest.mark.parametrize("asc", [b"", b"\x09\x90", b"\x11\x80"])
def test_a_format_whose_silence_is_not_known_has_none(asc: bytes) -> None:
    assert silence(AudioFormat(48000, 2, 0, asc)) is None
    assert silence(OWN) is not None
