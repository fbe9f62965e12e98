"""What LiveKit Egress is asked for."""

from __future__ import annotations

from uuid import UUID

import pytest
from livekit import api
from livekit.protocol.egress import ParticipantEgressRequest, StartEgressRequest, StreamProtocol

from butai.config import LiveSettings
from butai.live.egress.livekit.requests import encoding, full_url, start_request
from butai.live.egress.presets import PRESETS
from butai.live.reconcile.rows import BroadcastRow

BROADCAST = BroadcastRow(
    id=UUID(int=1),
    room_id="room/1 ü",
    host_identity="host-1",
    wanted="on_air",
    preset="1080p30",
    video_source="screen_share",
    video_name="",
    source_grace=60,
    on_source_lost="end",
    outputs=(),
)
URLS = ["rtmp://h/app/key"]


@pytest.mark.parametrize("preset", PRESETS)
def test_it_is_encoded_as_the_relay_encodes(preset: str) -> None:
    wanted, found = PRESETS[preset], encoding(preset)
    assert (found.width, found.height, found.framerate) == (wanted.width, wanted.height, wanted.fps)
    assert (found.video_bitrate, found.audio_bitrate) == (wanted.video_kbps, wanted.audio_kbps)
    assert found.audio_frequency == wanted.audio_rate
    assert found.key_frame_interval == 2, "LiveKit's own is 4, platforms want 2"
    assert (found.video_codec, found.audio_codec) == (api.VideoCodec.H264_MAIN, api.AudioCodec.AAC)


def test_media_takes_the_hosts_picture_and_sound() -> None:
    request = start_request(LiveSettings(), BROADCAST, URLS)
    assert isinstance(request, StartEgressRequest)
    assert request.room_name == "room/1 ü"
    assert request.media.participant_video.identity == "host-1"
    assert request.media.participant_video.prefer_screen_share
    assert [route.participant_identity for route in request.media.audio.routes] == ["host-1"]
    (output,) = request.outputs
    assert (output.stream.protocol, list(output.stream.urls)) == (StreamProtocol.RTMP, URLS)


def test_participant_is_the_older_request() -> None:
    request = start_request(LiveSettings(livekit_source="participant"), BROADCAST, URLS)
    assert isinstance(request, ParticipantEgressRequest)
    assert (request.identity, request.screen_share, request.room_name) == ("host-1", True, "room/1 ü")
    assert list(request.stream_outputs[0].urls) == URLS


def test_a_room_is_shown_by_a_template() -> None:
    plain = start_request(LiveSettings(livekit_source="room_composite", livekit_layout="grid-dark"), BROADCAST, URLS)
    assert isinstance(plain, StartEgressRequest)
    assert (plain.template.layout, plain.template.custom_base_url) == ("grid-dark", "")
    own = start_request(
        LiveSettings(livekit_source="room_composite", livekit_template_url="https://t.example"), BROADCAST, URLS
    )
    assert isinstance(own, StartEgressRequest) and own.template.custom_base_url == "https://t.example"


def test_a_page_of_ones_own_gets_the_rooms_name_escaped() -> None:
    settings = LiveSettings(livekit_source="web", livekit_template_url="https://t.example/{room_id}?x=1")
    request = start_request(settings, BROADCAST, URLS)
    assert isinstance(request, StartEgressRequest)
    assert request.web.url == "https://t.example/room%2F1%20%C3%BC?x=1"


@pytest.mark.parametrize(
    ("door", "url"),
    [
        ("rtmp://h/app", "rtmp://h/app/k"),
        ("rtmp://h/app/", "rtmp://h/app/k"),
        ("rtmps://b.example:443/live2?backup=1", "rtmps://b.example:443/live2?backup=1/k"),
    ],
)
def test_the_key_stands_at_the_end(door: str, url: str) -> None:
    assert full_url(door, "k") == url
